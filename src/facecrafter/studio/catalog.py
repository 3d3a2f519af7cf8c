"""What can be asked for: numbers, presets, emotions and the model, as the API lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from facecrafter.faces.asked import ANGLES, read_presets, sides_of
from facecrafter.faces.control_words import DOES
from facecrafter.faces.emotion import CENTRES, EMOTIONS
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.followed import Following
from facecrafter.faces.rig import load
from facecrafter.studio.schema import Control, Controls, EmotionPlace, Limits, ModelView

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

TURNS = {"yaw": "the head turned to the image's right", "pitch": "up", "roll": "counter-clockwise"}
# What a control's name begins with, and the group that it is shown in.
GROUPS = {
    "brow": "Brows",
    "eyeLook": "Gaze",
    "eye": "Eyes",
    "cheek": "Cheeks and nose",
    "nose": "Cheeks and nose",
    "jaw": "Jaw",
    "mouthSmile": "Mouth corners",
    "mouthFrown": "Mouth corners",
    "mouthDimple": "Mouth corners",
    "mouthStretch": "Mouth corners",
    "mouth": "Lips",
}
# A preview: one prediction a step, and so few steps that a face still shows. docs/studio.md has what it takes.
PREVIEW: dict[str, int | str] = {"speed": "distilled", "steps": 4}


def controls(following: Mapping[str, Following]) -> Controls:
    """Every number, preset and emotion.

    Args:
        following: how well the model follows each number, where that was measured.
    """
    live = load().live
    pose = [
        Control(
            name=name,
            group="Pose",
            words=TURNS[name],
            least=-most,
            most=most,
            sides=[name],
            live=True,
            **_of(following.get(name)),
        )
        for name, most in ANGLES.items()
    ]
    expression = [
        Control(
            name=name,
            group=_group(name),
            words=words,
            least=0,
            most=1,
            sides=list(sides_of(name)),
            live=bool(live[[BLENDSHAPES.index(side) for side in sides_of(name)]].any()),
            **_of(following.get(name)),
        )
        for name, words in DOES.items()
    ]
    places = zip(EMOTIONS, CENTRES.tolist(), strict=True)
    emotions = [EmotionPlace(name=name, valence=valence, arousal=arousal) for name, (valence, arousal) in places]
    return Controls(pose=pose, expression=expression, presets=read_presets(), emotions=emotions)


def _of(found: Following | None) -> dict[str, float | None]:
    if found is None:
        return {"correlation": None, "slope": None}
    return {"correlation": found.correlation, "slope": found.slope}


def _group(name: str) -> str:
    return next(group for beginning, group in GROUPS.items() if name.startswith(beginning))


def preview_of(crafter: FaceCrafter) -> dict[str, int | str]:
    """The settings of a preview: the distilled network's where the model has one."""
    return PREVIEW if crafter.model.distilled is not None else {"speed": "interval", "steps": PREVIEW["steps"]}


def model_view(crafter: FaceCrafter, private: bool, limits: Limits) -> ModelView:
    """The model as the API lists it."""
    from facecrafter.sampling.plans import SPEEDS
    from facecrafter.sampling.solvers import SCHEDULERS

    model = crafter.model
    return ModelView(
        name=crafter.name,
        scale=model.scale.name,
        size=model.scale.size,
        device=str(model.unet.device),
        precision=str(model.unet.dtype).removeprefix("torch."),
        digest=crafter.digest,
        speeds=[name for name in SPEEDS if name != "distilled" or model.distilled is not None],
        schedulers=list(SCHEDULERS),
        defaults=dict(model.scale.sampling),
        preview=preview_of(crafter),
        private=private,
        limits=limits,
    )
