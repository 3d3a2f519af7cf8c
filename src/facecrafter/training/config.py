"""The YAML of a training run, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from facecrafter import config
from facecrafter.config import Bearing, Strict
from facecrafter.data.pairs import PairConfig

Stage = Literal["autoencoder", "base", "landmark", "emotion", "joint", "estimator", "rival", "distill", "expression"]
Baseline = Literal["controlnet", "caphuman", "ip_adapter", "expression_adapter"]
Share = Annotated[float, Field(ge=0, le=1)]
# What has one of these may change when a run goes on; everything else is what the run is.
ASIDE, PLACE = Bearing.ASIDE, Bearing.PLACE


class Mixture(Strict):
    """How often a sample sees which conditions; the shares sum to 1. The paper does not state them: our choice."""

    none: Share = 0.0
    identity: Share = 0.0
    landmark: Share = 0.0  # identity and landmarks
    emotion: Share = 0.0  # identity and emotion
    both: Share = 0.0  # identity, landmarks and emotion

    @model_validator(mode="after")
    def _sums_to_one(self) -> Mixture:
        total = sum(self.shares)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of a mixture sum to {total:g}, not 1")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """In the order none, identity, landmark, emotion, both."""
        return self.none, self.identity, self.landmark, self.emotion, self.both


class AutoencoderLoss(Strict):
    """What the autoencoder is trained for."""

    lpips: float = Field(0.3, ge=0)  # weight of LPIPS (AlexNet) beside L1
    prior: float = Field(1e-3, ge=0)  # weight of the latents' mean square, which bounds them under the fixed noise
    crop: int = Field(64, ge=32, multiple_of=16)  # side of the training crops in pixels
    whole_from: Share = 0.75  # from this share of the run on, whole images, a third as many a step


class ImageLoss(Strict):
    """Losses on finished images, beside Eq. 4; all zero for none. See docs/method.md for why they are there."""

    identity: float = Field(0.0, ge=0)  # weight of `enough` - cosine, by the recogniser that gave the condition
    # From this cosine on an image is of the person. Two photos of one person have about 0.95 by dlib's network; where
    # nothing else holds an image, asking for more paints patterns on faces that please the recogniser.
    enough: Share = 1.0
    expression: float = Field(0.0, ge=0)  # weight of the difference from the photo in blendshapes and pose, where posed
    expression_net: Annotated[Path | None, PLACE] = None  # who reads these: what the expression stage trained
    lpips: float = Field(0.0, ge=0)  # weight of LPIPS (AlexNet) to the photo, where posed
    face_lpips: float = Field(0.0, ge=0)  # the same to the photo's face, larger
    # Weight of the difference from the photo on an 8 x 8 grid; where the pose is free, from its face on 4 x 4.
    colours: float = Field(0.0, ge=0)
    face: float = Field(0.0, ge=0)  # weight of the difference from the photo's face on a 28 x 28 grid, where posed
    # What places away from the face count in `lpips` and `colours`. A background is nobody's condition, so held to the
    # photo's it becomes the average of all.
    background: Share = 1.0
    adversary: float = Field(
        0.0, ge=0
    )  # how hard discriminators pull, who tell images from photos; 1 is as all the others
    batch: int = Field(8, ge=1)  # images a step, over all processes and accumulated steps
    steps: int = Field(8, ge=2)  # denoising steps from noise to the image
    learning: int = Field(4, ge=1)  # how many of these, drawn at random, the gradient goes into
    blend: Share = 0.2  # share of the images whose identity lies between two people: nobody the set has
    # Share of those that are asked for somebody else altogether, in the photo's pose: what users ask for, and what
    # nobody has a photo of.
    cross: Share = 0.0

    @model_validator(mode="after")
    def _has_its_networks(self) -> ImageLoss:
        if (self.expression > 0) != (self.expression_net is not None):
            raise ValueError("`expression` and `expression_net`, which the expression stage trains, go together")
        return self

    @property
    def on(self) -> bool:
        """Whether there is such a loss."""
        weights = self.identity, self.expression, self.lpips, self.face_lpips, self.colours, self.face, self.adversary
        return max(weights) > 0

    @property
    def perceptual(self) -> bool:
        """Whether LPIPS's network is wanted."""
        return max(self.lpips, self.face_lpips, self.adversary) > 0


class Joint(Strict):
    """The joint disentanglement stage (Sec. 3.2). What the paper leaves open is said in docs/method.md."""

    weight: float = Field(5e-4, ge=0)  # lambda of Eq. 5; 0 trains jointly without the loss
    # Which feature Eq. 2 compares, which the paper leaves open: what each branch adds by itself, or Eq. 1's sum. Pulled
    # apart by branches, mini kept 0.05 more of the identity cosine than without the loss; by sums it lost 0.02.
    reading: Literal["sum", "branch"] = "branch"
    groups: int = Field(1, ge=1)  # data points a batch, each replicated batch_size / groups times; 1 is the paper's
    drop: Share = 0.05  # share of replicas without any condition; without them guidance's starting point drifts
    identity_projections: bool = False  # train the base's identity K and V too


class Estimator(Strict):
    """The emotion estimator: what it learns from, and how."""

    fer2013: Annotated[Path, PLACE]  # FER2013's images, a tar or a folder
    votes: Annotated[Path, PLACE]  # FER+'s votes for them, a CSV
    labels: Annotated[Path, PLACE]  # CSV of image,emotion for photos of `data`
    widths: tuple[int, ...] = (64, 128, 256)  # channels a stage
    blocks: int | tuple[int, ...] = 2  # residual blocks, of every stage or of each
    stem: int = Field(0, ge=0)  # channels at the crop's own size; 0: the first convolution halves it
    squeeze: int = Field(0, ge=0)  # channels that share one in the blocks' gates; 0: no gates
    dropout: float = Field(0.3, ge=0, lt=1)  # share of the pooled features that a sample goes without
    photos: Share = 0.25  # share of colour photos in a batch
    # How much rare classes are drawn more often among the photos: 0 as they come, 1 all alike.
    evenness: Share = 0.5
    crop_evenness: Share = 0.0  # likewise among FER2013's crops, which are repeated within an epoch for it
    smoothing: float = Field(0.1, ge=0, lt=1)  # of the targets; distributions of votes have no need of it
    # Up to which share another face of its set is laid over a crop, and mixed into its label. Labels that people do
    # not agree on are learned by heart in a long run, and those of mixtures cannot be.
    mixup: Share = 0.0
    sides: tuple[int, int] = (32, 44)  # of the training crops in pixels: first, and then
    small_until: Share = 0.4  # share of the run at the first
    turn: float = Field(15.0, ge=0)  # degrees to either side
    zoom: float = Field(0.15, ge=0, lt=1)
    shift: float = Field(0.1, ge=0, lt=1)  # of the crop's side
    erase: Share = 0.5  # share of the crops with a grey rectangle in them
    contrast: float = Field(0.3, ge=0, lt=1)
    brightness: float = Field(0.15, ge=0, lt=1)  # crops being in [0, 1]
    gamma: float = Field(1.0, ge=1)  # crops are raised to a power between its inverse and it
    equalise: Share = 0.0  # share of the crops whose histogram is made even
    blur: Share = 0.0  # at most this much of what is finer than four pixels is taken away

    @model_validator(mode="after")
    def _builds(self) -> Estimator:
        depths = (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks
        if len(depths) != len(self.widths) or min(depths, default=0) < 1:
            raise ValueError("`blocks` is a number from 1 up, or one for each of `widths`")
        if self.squeeze > min(self.widths):
            raise ValueError(f"`squeeze` is at most the narrowest stage's channels, {min(self.widths)}")
        return self


class Expression(Strict):
    """The expression network: its size, what counts how much, and how images are varied."""

    widths: tuple[int, ...] = (64, 128, 256)  # channels a stage
    blocks: tuple[int, ...] = (1, 1, 2)  # residual blocks of each stage
    hidden: int = Field(192, ge=1)  # width of the layer that all readings are made from
    blendshapes: float = Field(1.0, ge=0)  # weight of the error of 52 numbers in [0, 1]: what the network is for
    angles: float = Field(0.5, ge=0)  # of three numbers in units of 45 degrees: easy to read, and must not lead
    points: float = Field(10.0, ge=0)  # of landmarks in shares of the side: a pixel of 128 is only 0.008
    light: float = Field(0.3, ge=0, lt=1)  # how much contrast, brightness and, half as much, each colour change
    blur: Share = 0.8  # at most this much of what is finer than four pixels is taken away
    noise: float = Field(0.15, ge=0)  # largest deviation of added noise, images being in [-1, 1]
    erase: Share = 0.25  # share of the images with a rectangle of one colour in them

    @model_validator(mode="after")
    def _fits(self) -> Expression:
        if len(self.widths) != len(self.blocks):
            raise ValueError("expression.widths and expression.blocks are of one length, a number a stage")
        if any(width % 32 for width in self.widths):
            raise ValueError("expression.widths are multiples of 32, for the groups of its norms")
        return self


class Distill(Strict):
    """Guidance distillation: the student, and which scales of Eq. 6 it learns."""

    rank: int = Field(16, ge=1)  # of the updates of the base's layers
    spread: Share = 0.5  # scales are drawn evenly from 1 - spread to 1 + spread times the model scale's own


class TrainConfig(Strict):
    """One training run."""

    RENAMED = {"rival": "baseline", "picture_loss": "image_loss", "critic_rate": "discriminator_rate"}  # noqa: RUF012

    stage: Stage
    scale: Literal["mini", "arc2face"] = "mini"
    data: Annotated[Path, PLACE]  # a folder that `facecrafter data prepare` wrote
    run: Annotated[Path, ASIDE]  # where checkpoints, logs and the result go
    # A model folder (an earlier run's `model/`) whose parts this stage builds on; `mini` for the shipped weights.
    start: Annotated[Path | None, PLACE] = None
    steps: Annotated[int, ASIDE] = Field(ge=1)  # a run that goes on may have more: docs/training.md
    batch_size: int = Field(32, ge=1)  # over all processes and accumulated steps
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    warmup: int = Field(100, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    # Shares of the learning rate. At 1 the encoder forgot who is who before the UNet had learned to listen to it.
    encoder_rate: float = Field(0.05, gt=0)  # the identity encoder
    identity_rate: float = Field(4.0, gt=0)  # the identity's K and V projections in the UNet
    scaffold_rate: float = Field(1.0, gt=0)  # the controls, where the base stage trains them along
    discriminator_rate: float = Field(1.0, gt=0)  # the discriminators of image_loss.adversary
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema: float = Field(0.999, ge=0, lt=1)
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    seed: int = 0
    held_out: bool = True  # hold out the people that evaluation uses
    log_every: Annotated[int, ASIDE] = Field(20, ge=1)
    save_every: Annotated[int, ASIDE] = Field(500, ge=1)
    sample_every: Annotated[int, ASIDE] = Field(1000, ge=1)
    validate_every: Annotated[int, ASIDE] = Field(500, ge=1)  # the loss on held-out people, where some are
    # Two products and a softmax: on a CPU the fused kernel's backward is slow.
    plain_attention: Annotated[bool, ASIDE] = True
    mixture: Mixture = Mixture(none=0.1, identity=0.9)
    fresh_controls: bool = False  # begin with untrained control modules, whatever `start` holds
    scaffold: bool = False  # base stage: train the controls along, which steadies a short run (see docs/method.md)
    # Pairs of an input and an identity image by the paper's rules (Sec. 3.2), in the landmark, emotion, joint and
    # baseline stages; the last two take landmark pairs, which differ in pose and expression. null: see `pair`.
    pairs: PairConfig | None = None
    # Without `pairs`: how often the identity comes from another photo of the same person, where there is one.
    pair: Share = 0.5
    identity_noise: float = Field(0.0, ge=0)  # deviation added to each number of the identity embedding
    # Min-SNR weighting (Hang et al., 2023); null for Eq. 4 as it stands. It takes weight from high noise, where who a
    # person is and how the head is turned are decided: with 5, a mini base had not begun to use the identity
    # after 64,000 samples.
    snr_gamma: float | None = Field(None, gt=0)
    loss: AutoencoderLoss = AutoencoderLoss()
    image_loss: ImageLoss = ImageLoss()
    joint: Joint = Joint()
    # The baseline stage: which network learns beside the frozen base (docs/method.md). In its mixture `landmark` is the
    # baseline's condition, whatever it reads; of ip_adapter, whose condition is the person, `identity` is.
    baseline: Baseline | None = None
    distill: Distill = Distill()
    estimator: Estimator | None = None  # the estimator stage, which has no use for what is said of diffusion
    expression: Expression | None = None  # the expression stage, likewise
    # Recompute the UNet's blocks in the backward pass: less memory, more time.
    gradient_checkpointing: Annotated[bool, ASIDE] = False
    arcface: Annotated[Path | None, PLACE] = None  # arcface.onnx, which the identity loss reads at the arc2face scale

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        if self.stage == "joint" and "mixture" in self.model_fields_set:
            raise ValueError("the joint stage mixes its four combinations evenly; leave `mixture` out")
        if self.stage == "joint" and self.batch_size % self.joint.groups:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of joint.groups {self.joint.groups}")
        if self.pairs and self.stage not in ("landmark", "emotion", "joint", "rival"):
            raise ValueError(f"pairs belong to the landmark, emotion, joint and baseline stages, not to {self.stage}")
        images = self.image_loss
        if images.on and self.stage != "base":
            raise ValueError(f"image_loss belongs to the base stage, not to {self.stage}")
        if images.on and (images.batch > self.batch_size or images.batch % self.accumulate):
            raise ValueError("image_loss.batch is at most batch_size, and a multiple of accumulate")
        if images.on and images.learning > images.steps:
            raise ValueError(f"image_loss.learning is at most image_loss.steps, {images.steps}")
        if self.stage == "autoencoder" and self.scale != "mini":
            raise ValueError("the arc2face scale brings its own autoencoder; only mini trains one")
        if (self.stage == "estimator") != (self.estimator is not None):
            raise ValueError("`estimator`, which names the labelled faces, belongs to the estimator stage")
        if (self.stage == "expression") != (self.expression is not None):
            raise ValueError("`expression`, which says how its network learns, belongs to the expression stage")
        if self.stage not in ("autoencoder", "estimator", "expression") and self.start is None:
            raise ValueError(f"the {self.stage} stage needs `start`, the model folder it builds on")
        if self.stage in ("landmark", "emotion"):
            other = {"landmark": self.mixture.emotion, "emotion": self.mixture.landmark}[self.stage] + self.mixture.both
            if other > 0:
                raise ValueError(f"the {self.stage} stage trains one module alone; its mixture names the other too")
            if getattr(self.mixture, self.stage) == 0:
                raise ValueError(f"the {self.stage} stage learns nothing from a mixture without {self.stage}")
        if self.stage == "distill" and self.mixture.none > 0:
            raise ValueError("the distill stage gives every sample an identity; leave `none` out of its mixture")
        if self.stage == "distill" and self.gradient_checkpointing:
            raise ValueError("the distill stage cannot recompute its blocks; leave gradient_checkpointing out")
        self._check_baseline()
        return self

    def _check_baseline(self) -> None:
        if (self.stage == "rival") != (self.baseline is not None):
            raise ValueError(
                f"`baseline`, one of {', '.join(get_args(Baseline))}, belongs to the baseline stage, which trains it"
            )
        if self.baseline is None:
            return
        own = "identity" if self.baseline == "ip_adapter" else "landmark"
        foreign = {"landmark", "emotion", "both"} - {own}
        if any(getattr(self.mixture, name) for name in foreign):
            raise ValueError(f"the baseline {self.baseline} has one condition, {own}; its mixture names another")
        if getattr(self.mixture, own) == 0:
            raise ValueError(f"the baseline {self.baseline} learns nothing from a mixture without {own}")


def load(path: Path, overrides: dict[str, object] | None = None) -> TrainConfig:
    """Read a YAML file.

    Args:
        path: the file.
        overrides: values that replace the file's, by name.

    Raises:
        ConfigError: no such file, not YAML, or a name or value that is not allowed; the message says which.
    """
    return config.check(path, {**config.read(path), **(overrides or {})}, TrainConfig)
