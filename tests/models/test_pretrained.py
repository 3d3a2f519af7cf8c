"""Published folders load whatever their age, and a wrong one is told apart by one sentence a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_arc2face import ENCODER, TINY, publish, tiny_autoencoder, write_recogniser
from typer.testing import CliRunner

from facecrafter import FaceCrafter
from facecrafter.cli import app
from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.models import pretrained, scales
from facecrafter.models.attention import ConditionedAttention
from facecrafter.models.checkpoint import FaceModel, load_model, save_part
from facecrafter.models.pretrained import checking
from facecrafter.sampling.sampler import Sampler
from facecrafter.training import trainer
from facecrafter.training.stages import parse

UNET = "arc2face/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Any:
    """The arc2face scale is the tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "arc2face", TINY)
        patch.setattr(scales, "build_autoencoder", tiny_autoencoder)
        yield


@pytest.fixture(scope="module")
def built() -> FaceModel:
    torch.manual_seed(0)
    return FaceModel(TINY, scales.build_unet(TINY), scales.build_encoder(TINY), tiny_autoencoder(TINY))


@pytest.fixture(scope="module")
def whole(built: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish(built, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(
        [UNET, "arc2face/config.json", ENCODER, "encoder/config.json", VAE, "vae/config.json", "arcface.onnx"]
    )
    return folder


@pytest.fixture
def known(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up recogniser is the published one."""
    digest = hashlib.sha256((whole / "arcface.onnx").read_bytes()).hexdigest()
    monkeypatch.setattr(checking, "RECOGNISER_SHA256", digest)


@pytest.fixture
def folder(whole: Path, known: None, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(whole, tmp_path / "weights"))


def same(one: FaceModel, other: FaceModel) -> bool:
    return all(
        before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        for name in ("unet", "encoder", "autoencoder")
        for before, after in [(one.modules[name].state_dict(), other.modules[name].state_dict())]
    )


# --- good folders -----------------------------------------------------------------------------------------------------


def test_a_whole_folder_is_found_whole_and_loads_exactly(folder: Path, built: FaceModel, capfd: Any) -> None:
    findings = pretrained.check(folder)
    assert [finding.state for finding in findings] == ["ok"] * 7
    assert [str(finding.path.relative_to(folder)) for finding in findings] == [
        "arc2face/config.json", UNET, "encoder/config.json", ENCODER, "vae/config.json", VAE, "arcface.onnx",
    ]  # fmt: skip
    model = pretrained.load(folder)
    assert same(model, built)
    assert model.scale is TINY and model.controls is None
    assert not any(module.training for module in model.modules.values())
    assert all(isinstance(one, ConditionedAttention) for one in model.unet.attn_processors.values())
    embedding = torch.randn(2, 512)
    assert torch.equal(model.encoder(embedding), built.encoder.eval()(embedding))
    assert capfd.readouterr() == ("", "")


def new_names(folder: Path) -> None:
    tensors = torch.load(folder / ENCODER, weights_only=True)
    (folder / ENCODER).unlink()
    kept = {name.removeprefix("text_model."): value for name, value in tensors.items() if "position_ids" not in name}
    save_file(kept, folder / "encoder" / "model.safetensors", {"format": "pt"})


def old_attention(folder: Path) -> None:
    """Stable Diffusion 1.5's own autoencoder names its attention as diffusers did before 0.12."""
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(folder / VAE)
    renamed = {re.sub("|".join(older), lambda m: older[m[0]], name): value for name, value in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == 16
    save_file(renamed, folder / VAE, {"format": "pt"})


def as_bin(folder: Path) -> None:
    for name in (UNET, VAE):
        torch.save(load_file(folder / name), (folder / name).with_suffix(".bin"))
        (folder / name).unlink()


def moved(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "vae").rename(folder / place)


def published_defaults(folder: Path) -> None:
    """Configs that say less, or null where this version says false."""
    path = folder / "arc2face" / "config.json"
    config = json.loads(path.read_text())
    del config["in_channels"]
    path.write_text(json.dumps({**config, "upcast_attention": None, "a_setting_of_tomorrow": 1}))


GOOD: dict[str, Callable[[Path], None]] = {
    "flattened encoder in safetensors": new_names,
    "old attention names": old_attention,
    ".bin files": as_bin,
    "Stable Diffusion beside it": lambda folder: moved(folder, "stable-diffusion-v1-5/vae"),
    "a short config": published_defaults,
}


@pytest.mark.parametrize("case", GOOD)
def test_every_way_of_publishing_is_the_same_model(case: str, folder: Path, built: FaceModel) -> None:
    GOOD[case](folder)
    assert [finding.sentence for finding in pretrained.check(folder) if finding.state != "ok"] == []
    assert same(pretrained.load(folder), built)


def test_half_precision_is_read_in_single(folder: Path, built: FaceModel) -> None:
    tensors = {name: value.half() for name, value in load_file(folder / VAE).items()}
    (folder / VAE).unlink()
    save_file(tensors, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    state = pretrained.load(folder).autoencoder.state_dict()
    for name, value in built.autoencoder.state_dict().items():
        assert torch.equal(state[name], value.half().float())


def test_arc2faces_own_place_of_the_recogniser(folder: Path) -> None:
    (folder / "antelopev2").mkdir()
    (folder / "arcface.onnx").rename(folder / "antelopev2" / "arcface.onnx")
    assert pretrained.recogniser(folder) == folder / "antelopev2" / "arcface.onnx"


def test_controls_in_the_folder_or_beside_it_are_loaded(folder: Path, built: FaceModel, tmp_path: Path) -> None:
    controls = [scales.build_controls(TINY, built.unet) for _ in range(2)]
    save_part(controls[0], folder / "controls.safetensors", "controls", "arc2face")
    save_part(controls[1], tmp_path / "other.safetensors", "controls", "arc2face")
    assert pretrained.check(folder)[-1].ok
    for given, expected in ((None, controls[0]), (tmp_path / "other.safetensors", controls[1])):
        loaded = pretrained.load(folder, given).controls
        assert loaded is not None
        assert torch.equal(loaded.emotion_keys[0].weight, expected.emotion_keys[0].weight)


# --- an image and a training step ------------------------------------------------------------------------------------


def test_a_image_from_the_command_line(folder: Path, portrait: Path, tmp_path: Path, built: FaceModel) -> None:
    save_part(scales.build_controls(TINY, built.unet), folder / "controls.safetensors", "controls", "arc2face")
    out = tmp_path / "out"
    line = ["generate", "--identity", portrait, "--target", portrait, "--steps", 1, "-n", 1, "--out", out]
    asked = [*line, "--model", "arc2face", "--weights", folder, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in asked])
    assert done.exit_code == 0, done.output
    outcome = CliRunner().invoke(app, ["inspect", str(out / "00000.png")]).output
    assert "scale: arc2face" in outcome and "watermark: yes" in outcome
    crafter = FaceCrafter.from_pretrained("arc2face", "cpu", weights=folder)
    assert crafter.person(portrait).shape == (512,)
    assert crafter.generate(portrait, n=1, steps=1)[0].size == (64, 64)


@pytest.fixture
def data(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of 64 px with embeddings of 512 numbers; sample grids take one denoising step."""
    identity = np.random.default_rng(0).normal(size=(len(prepared), 512)).astype(np.float32)
    large = dataclasses.replace(prepared, images=prepared.images[:, ::2, ::2], points=prepared.points / 2)
    large = dataclasses.replace(large, identity=identity / np.linalg.norm(identity, axis=1, keepdims=True))

    def load(folder: Path, recogniser: str) -> Prepared:
        assert recogniser == "arcface"
        return large

    monkeypatch.setattr(shards, "load", load)
    generate = Sampler.generate
    monkeypatch.setattr(Sampler, "generate", lambda self, *a, **options: generate(self, *a, **{**options, "steps": 1}))


def test_every_stage_starts_from_a_published_folder_and_saves_a_model_folder(
    data: None, folder: Path, built: FaceModel, tmp_path: Path
) -> None:
    for stage in ("landmark", "emotion", "joint"):
        own = {"encoder_rate": 1.0} if stage == "joint" else {"mixture": {stage: 1.0}}
        config = parse(Path("run.yaml"), {
            "stage": stage, "scale": "arc2face", "data": tmp_path, "run": tmp_path / stage, "start": folder,
            "steps": 1, "batch_size": 4, "warmup": 0, "schedule": "constant", "precision": "no", "ema": 0.0, **own,
        })  # fmt: skip
        saved = trainer.train(config, progress=False)
        again = load_model(saved)
        assert again.controls is not None and again.scale is TINY
        trained = getattr(again.controls, f"{'emotion' if stage == 'joint' else stage}_values")
        assert any(value.weight.abs().max() > 0 for value in trained)
        assert same(again, built) is (stage != "joint")
        for name in ("unet", "autoencoder"):
            before, after = built.modules[name].state_dict(), again.modules[name].state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)
        # The joint stage builds on trained controls, which the folder may hold.
        shutil.copy(saved / "controls.safetensors", folder)
    assert pretrained.folder_of(saved) == saved
    loaded, place = pretrained.open_model(saved, folder)
    assert place == folder / "arcface.onnx" and same(loaded, again)


def test_a_stage_names_what_its_folder_lacks(data: None, folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "arc2face")
    about = {"data": tmp_path, "run": tmp_path / "run", "start": folder, "steps": 1, "precision": "no"}
    mixture = {"landmark": 1.0}
    config = parse(Path("run.yaml"), {"stage": "landmark", "scale": "arc2face", "mixture": mixture, **about})
    with pytest.raises(CheckpointError, match=r"arc2face/config\.json is missing; get it from Hugging Face Foivos"):
        trainer.train(config, progress=False)


# --- wrong folders ----------------------------------------------------------------------------------------------------


def retell(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reshape(path: Path, name: str) -> None:
    tensors = load_file(path)
    save_file({**tensors, name: torch.zeros(4, 1024)}, path)


def without(path: Path, count: int) -> None:
    tensors = load_file(path)
    save_file({name: tensors[name] for name in sorted(tensors)[count:]}, path)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
# How a folder of weights is spoiled; the file that is named; words of its sentence.
SPOILED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no UNet": (lambda f: shutil.rmtree(f / "arc2face"), "arc2face/config.json", "is missing; get it from"),
    "no UNet tensors": (lambda f: (f / UNET).unlink(), UNET, "is missing"),
    "no encoder": (lambda f: shutil.rmtree(f / "encoder"), "encoder/config.json", "is missing"),
    "no encoder tensors": (lambda f: (f / ENCODER).unlink(), "encoder/pytorch_model.bin", "is missing; get it from"),
    "no autoencoder": (
        lambda f: shutil.rmtree(f / "vae"),
        "vae/config.json",
        "is missing; get it from Hugging Face st",
    ),
    "another width": (
        lambda f: retell(f / "arc2face/config.json", cross_attention_dim=1024),
        "arc2face/config.json",
        "says cross_attention_dim 1024 where the arc2face scale has 520",
    ),
    "another width in the tensors": (
        lambda f: reshape(f / UNET, KEY),
        UNET,
        f"has {KEY} of shape (4, 1024) where the arc2face scale has (32, 520)",
    ),
    "another text model": (
        lambda f: retell(f / "encoder/config.json", hidden_size=1024, num_hidden_layers=23),
        "encoder/config.json",
        "says hidden_size 1024 where the arc2face scale has 520, num_hidden_layers 23 where",
    ),
    "another autoencoder": (
        lambda f: retell(f / "vae/config.json", scaling_factor=0.13025),
        "vae/config.json",
        "says scaling_factor 0.13025 where the arc2face scale has 0.18215",
    ),
    "a tensor too few": (lambda f: without(f / UNET, 2), UNET, "lacks 2 tensors (first: "),
    "a tensor too many": (
        lambda f: save_file({**load_file(f / VAE), "more": torch.zeros(1)}, f / VAE),
        VAE,
        "has beyond the scale's 1 tensors (first: more)",
    ),
    "truncated safetensors": (lambda f: shorten(f / UNET), UNET, "is not a whole safetensors file"),
    "truncated .bin": (lambda f: shorten(f / ENCODER), ENCODER, "is not a whole PyTorch file"),
    "a list in a .bin": (lambda f: torch.save([1], f / ENCODER), ENCODER, "is not a whole PyTorch file"),
    "another program's objects in a .bin": (
        lambda f: torch.save({"settings": Namespace(rate=1), **torch.load(f / ENCODER)}, f / ENCODER),
        ENCODER,
        "is a pickle with objects of other programs (argparse.Namespace), whose code is not run here",
    ),
    "all of Stable Diffusion in the place of its autoencoder": (
        lambda f: save_file(SINGLE, f / VAE),
        VAE,
        "is a single-file checkpoint of Stable Diffusion, which is not read; move it elsewhere and convert it once",
    ),
    "all of Stable Diffusion in the place of Arc2Face's UNet": (
        lambda f: save_file(SINGLE, f / UNET),
        UNET,
        "is a single-file checkpoint of Stable Diffusion, which is not read; get the file again from Hugging Face Foi",
    ),
    "a pointer": (lambda f: (f / UNET).write_text(POINTER), UNET, "is a Git LFS pointer and not the file itself"),
    "text for JSON": (
        lambda f: (f / "arc2face/config.json").write_text("<html>404</html>"),
        "arc2face/config.json",
        "is not JSON",
    ),
    "bytes for JSON": (lambda f: (f / "vae/config.json").write_bytes(b"\xff\xfe"), "vae/config.json", "is not JSON"),
    "a list for JSON": (lambda f: (f / "vae/config.json").write_text("[]"), "vae/config.json", "holds no settings"),
}
# Names of a checkpoint as Stable Diffusion's own code writes it.
SINGLE = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": torch.zeros(2, 3, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(3)[None],
}
CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "v1-5-pruned-emaonly.safetensors": lambda path: save_file(SINGLE, path),
    "v1-5-pruned.ckpt": lambda path: torch.save(
        {"callbacks": {Namespace: Namespace(best=1)}, "state_dict": SINGLE}, path
    ),
    "old.ckpt": lambda path: torch.save(SINGLE, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("place", ["", "vae"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_single_file_checkpoint_is_recognised_where_the_autoencoder_is_missing(
    name: str, place: str, folder: Path
) -> None:
    shutil.rmtree(folder / "vae")
    (folder / place).mkdir(exist_ok=True)
    CHECKPOINTS[name](folder / place / name)
    first, second = [finding for finding in pretrained.check(folder) if not finding.ok]
    assert (first.path, second.path) == (folder / "vae/config.json", folder / VAE)
    outcome = first.sentence
    assert f"is missing, and {folder / place / name} is a single-file checkpoint of Stable Diffusion" in outcome
    made = f"AutoencoderKL.from_single_file('{folder / place / name}').save_pretrained('{folder / 'vae'}')"
    assert outcome.endswith(
        f'convert it once, with a connection for its config: python -c "from diffusers import AutoencoderKL; {made}"'
    )
    with pytest.raises(CheckpointError, match="is a single-file checkpoint"):
        pretrained.load(folder)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_single_file_checkpoint_in_place_of_a_folder_is_recognised(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    CHECKPOINTS[name](path)
    (finding,) = pretrained.check(path)
    assert not finding.ok and "is a single-file checkpoint of Stable Diffusion" in finding.sentence
    for use in (pretrained.load, pretrained.folder_of, lambda one: pretrained.open_model("arc2face", one)):
        with pytest.raises(CheckpointError, match=r"single-file checkpoint .*AutoencoderKL\.from_single_file"):
            use(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"no checkpoint"),
        lambda path: torch.save([torch.zeros(1)], path),
        lambda path: torch.save({"fc.weight": torch.zeros(1)}, path),
        lambda path: torch.save({"state_dict": [1]}, path),
    ],
)
def test_other_files_are_no_single_file_checkpoints(make: Callable[[Path], object], tmp_path: Path) -> None:
    for name in ("a.ckpt", "a.safetensors", "a.txt"):
        make(tmp_path / name)
        assert not pretrained.is_single_file(tmp_path / name)


RECOGNISERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda path: path.unlink(), "is missing; get arcface.onnx from Hugging Face FoivosPar/Arc2Face"),
    "glintr100 beside it": (
        lambda path: path.rename(path.with_name("glintr100.onnx")),
        "is missing, and glintr100.onnx does not replace it",
    ),
    "glintr100 renamed": (
        lambda path: write_recogniser(path.with_name("arcface.onnx"), 511),
        "is glintr100.onnx of InsightFace's antelopev2, which gives other people; get arcface.onnx",
    ),
    "text": (lambda path: path.write_text("hello"), "is not a whole ONNX file"),
    "other numbers": (lambda path: write_recogniser(path, 128), "turns (0, 3, 112, 112) into (1, 128), not"),
    "two outputs": (lambda path: write_recogniser(path, 512, 2), "is not a network of one input and one output"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder_is_told_in_one_sentence_before_anything_loads(case: str, folder: Path) -> None:
    spoil, name, words = SPOILED[case]
    spoil(folder)
    wrong = [finding for finding in pretrained.check(folder) if not finding.ok]
    assert wrong and wrong[0].path == folder / name
    assert words in wrong[0].sentence
    with pytest.raises(CheckpointError) as caught:
        pretrained.load(folder)
    assert str(caught.value) == wrong[0].sentence
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", RECOGNISERS)
def test_a_wrong_recogniser_is_refused(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, words = RECOGNISERS[case]
    path = folder / "arcface.onnx"
    spoil(path)
    if case == "glintr100 renamed":
        name = next(iter(checking.OTHER_RECOGNISERS.values()))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(checking, "OTHER_RECOGNISERS", {digest: name})
    (wrong,) = [finding for finding in pretrained.check(folder) if not finding.ok]
    assert wrong.path == path and words in wrong.sentence
    with pytest.raises(CheckpointError) as caught:
        FaceCrafter.from_pretrained("arc2face", "cpu", weights=folder)
    assert str(caught.value) == wrong.sentence
    pretrained.load(folder)  # the networks do not need it


def test_an_unknown_recogniser_is_used_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checking, "RECOGNISER_SHA256", "0" * 64)
    finding = pretrained.check(folder)[-1]
    assert (finding.ok, finding.state) == (True, "note")
    with caplog.at_level("WARNING", "facecrafter"):
        assert pretrained.recogniser(folder) == folder / "arcface.onnx"
    assert "is not the file known as Arc2Face's" in finding.sentence


def test_spoiled_controls_are_found(folder: Path, built: FaceModel) -> None:
    path = folder / "controls.safetensors"
    path.write_bytes(b"12345678")
    assert "is not a whole safetensors file" in pretrained.check(folder)[-1].sentence
    save_part(scales.build_controls(TINY, built.unet), path, "controls", "mini")
    assert "holds no controls of the arc2face scale; take it away" in pretrained.check(folder)[-1].sentence
    with pytest.raises(CheckpointError, match="its scale says mini"):
        pretrained.load(folder)


# --- the command line -------------------------------------------------------------------------------------------------


def facecrafter(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_weights_check_prints_a_line_a_file_and_fails_when_something_is_wrong(folder: Path) -> None:
    done = facecrafter("weights", "check", folder)
    assert done.exit_code == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 7 and all(line.startswith("ok     ") for line in lines)
    (folder / ENCODER).unlink()
    done = facecrafter("weights", "check", folder)
    assert done.exit_code == 1
    assert [line[:5].strip() for line in done.stdout.splitlines()] == ["ok", "ok", "ok", "wrong", "ok", "ok", "ok"]
    assert done.stderr == f"error: 1 of 7 files in {folder} are missing or wrong, see above\n"
    done = facecrafter("weights", "check", folder / "none")
    assert done.exit_code == 1 and "none is no folder; name the one that holds arc2face/" in done.stdout


BAD: dict[str, tuple[tuple[str, ...], type[Exception], str]] = {
    "arc2face without weights": (("--model", "arc2face"), ConfigError, "needs the folder of its files, --weights DIR"),
    "mini with weights": (("--weights", "DIR"), ConfigError, "leave --weights out, or ask for --model arc2face"),
    "published as a model": (("--model", "DIR"), ConfigError, "holds published weights; ask for --model arc2face"),
    "no such weights": (("--model", "arc2face", "--weights", "none"), CheckpointError, "no folder of weights none"),
    "weights that are a file": (("--model", "arc2face", "--weights", "DIR/arcface.onnx"), CheckpointError, "no folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_models_and_weights_that_do_not_belong_together(
    case: str, folder: Path, portrait: Path, tmp_path: Path
) -> None:
    words, kind, sentence = BAD[case]
    words = tuple(word.replace("DIR", str(folder)) for word in words)
    done = facecrafter("generate", "--identity", portrait, "--out", tmp_path / "out", *words)
    # Typer itself refuses a file for a folder, in words of its own.
    assert done.exit_code == (2 if case == "weights that are a file" else 1), done.output
    assert done.exit_code == 2 or (sentence in done.stderr and done.stderr.count("\n") == 1)
    assert not (tmp_path / "out").exists()
    options = dict(zip(words[::2], words[1::2], strict=True))
    with pytest.raises(kind, match=re.escape(sentence)):
        FaceCrafter.from_pretrained(options.get("--model", "mini"), "cpu", weights=options.get("--weights"))
    if kind is ConfigError:
        done = facecrafter("evaluate", "model", tmp_path, "--out", tmp_path / "out", *words)
        assert done.exit_code == 1 and sentence in done.stderr


def test_a_model_folder_of_the_other_scale_reads_no_weights(folder: Path, model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="is of the mini scale and reads no published weights"):
        pretrained.open_model(model_folder, folder)
