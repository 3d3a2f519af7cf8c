"""What is saved comes back exactly, and a wrong file is refused by its name with the reason."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.models import scales
from facecrafter.models.attention import AttentionInputs
from facecrafter.models.checkpoint import (
    FaceModel,
    blended,
    load_controls,
    load_model,
    load_part,
    save_model,
    save_part,
)
from facecrafter.models.controls import FaceControls, branches

PARTS = ("unet", "encoder", "autoencoder", "controls")


@pytest.fixture(scope="module")
def saved(small_model: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "deep" / "model"
    save_model(small_model, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@torch.no_grad()
def outputs(model: FaceModel) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    tokens = model.encoder(torch.randn(2, 128, generator=source))
    values = {"landmark": torch.rand(2, 3, 128, 128, generator=source), "emotion": torch.rand(2, 10, generator=source)}
    assert model.controls is not None
    made = branches(model.controls, values, {name: torch.ones(2) for name in values})
    noisy = torch.randn(2, 32, 8, 8, generator=source)
    conditions = {"conditions": AttentionInputs(made)}
    prediction = model.unet(noisy, torch.tensor([10, 500]), tokens, cross_attention_kwargs=conditions).sample
    return [tokens, prediction, model.autoencoder.decode(noisy).sample]


def test_a_round_trip_is_exact_in_tensors_and_outputs(saved: Path, small_model: FaceModel) -> None:
    again = load_model(saved)
    assert sorted(path.name for path in saved.iterdir()) == sorted(f"{name}.safetensors" for name in PARTS)
    for name, module in small_model.modules.items():
        before, after = module.state_dict(), again.modules[name].state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not again.modules[name].training
    assert all(torch.equal(a, b) for a, b in zip(outputs(small_model), outputs(again), strict=True))


def test_the_config_rides_in_the_file(saved: Path, small_model: FaceModel) -> None:
    for name in PARTS:
        metadata = metadata_of(saved / f"{name}.safetensors")
        assert (metadata["format"], metadata["kind"], metadata["scale"]) == ("facecrafter-1", name, "mini")
        assert metadata["licence"]
    config = json.loads(metadata_of(saved / "controls.safetensors")["config"])
    assert config["landmark_channels"] == list(small_model.scale.controls["landmark_channels"])  # type: ignore[call-overload]
    assert load_part(saved / "controls.safetensors", "controls", "mini").config.landmark_place_sigma == 0.12


def test_a_second_round_trip_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path)
    for name in PARTS:
        old, new = saved / f"{name}.safetensors", tmp_path / f"{name}.safetensors"
        assert metadata_of(old) == metadata_of(new)
        first, second = load_file(old), load_file(new)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_half_precision_halves_the_file_and_is_read_back_in_single(
    saved: Path, small_model: FaceModel, tmp_path: Path
) -> None:
    save_model(small_model, tmp_path, torch.float16)
    again = load_model(tmp_path)
    for name, module in small_model.modules.items():
        assert (tmp_path / f"{name}.safetensors").stat().st_size < 0.6 * (saved / f"{name}.safetensors").stat().st_size
        after = again.modules[name].state_dict()
        for key, value in module.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(after[key], expected), key
            assert after[key].dtype == value.dtype


def test_a_base_alone_and_another_controls_file(folder: Path, small_model: FaceModel, tmp_path: Path) -> None:
    other = scales.build_controls(small_model.scale, small_model.unet)
    save_part(other, tmp_path / "other.safetensors", "controls", "mini")
    in_place = load_model(folder, tmp_path / "other.safetensors").controls
    assert in_place is not None
    assert torch.equal(in_place.emotion_keys[0].weight, other.emotion_keys[0].weight)
    (folder / "controls.safetensors").unlink()
    assert load_model(folder).controls is None
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere\.safetensors"):
        load_model(folder, tmp_path / "nowhere.safetensors")


def retell(path: Path, **changes: str | None) -> None:
    """Write a file again with other metadata."""
    tensors, metadata = load_file(path), {**metadata_of(path), **changes}
    save_file(tensors, path, {key: value for key, value in metadata.items() if value is not None})


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def reshape_first(path: Path) -> None:
    tensors, metadata = load_file(path), metadata_of(path)
    name = min(tensors)
    save_file({**tensors, name: torch.zeros(1, 2, 3)}, path, metadata)


def drop_first(path: Path) -> None:
    tensors, metadata = load_file(path), metadata_of(path)
    del tensors[min(tensors)]
    save_file(tensors, path, metadata)


def add_one(path: Path) -> None:
    save_file({**load_file(path), "surplus": torch.zeros(1)}, path, metadata_of(path))


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "there is no checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "text": (lambda path: path.write_text("not tensors" * 100), "not a whole safetensors file"),
    "truncated": (shorten, "not a whole safetensors file"),
    "a folder": (become_folder, "not a whole safetensors file"),
    "other format": (lambda path: retell(path, format="facecrafter-0"), "its format says facecrafter-0"),
    "no format": (lambda path: retell(path, format=None), "its format says nothing"),
    "other kind": (lambda path: retell(path, kind="lora"), "its kind says lora"),
    "other scale": (lambda path: retell(path, scale="arc2face"), "its scale says arc2face"),
    "a tensor too few": (drop_first, "does not hold the tensors its config asks for"),
    "a tensor too many": (add_one, r"does not hold the tensors its config asks for \(first: surplus\)"),
    "a tensor of another shape": (reshape_first, "does not hold the tensors its config asks for"),
    "no config": (lambda path: retell(path, config=None), "config"),
    "a broken config": (lambda path: retell(path, config="{"), "config"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("part", ["encoder", "autoencoder", "controls"])
def test_a_spoiled_part_is_refused_by_its_name(part: str, spoiled: str, folder: Path) -> None:
    spoil, reason = SPOILED[spoiled]
    path = folder / f"{part}.safetensors"
    spoil(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_part(path, part, "mini")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "there is no checkpoint"),
        (lambda path: path.write_bytes(b"junk"), "not a whole safetensors file"),
        (lambda path: retell(path, scale=None), "not a checkpoint of this project"),
        (lambda path: retell(path, scale="giant"), "not a checkpoint of this project"),
        (lambda path: retell(path, kind="controls"), "its kind says controls"),
    ],
)
def test_a_folder_with_a_spoiled_unet_is_refused(spoil: Callable[[Path], None], reason: str, folder: Path) -> None:
    spoil(folder / "unet.safetensors")
    with pytest.raises(CheckpointError, match=rf"unet\.safetensors.*{reason}|{reason}.*unet\.safetensors"):
        load_model(folder)


def test_a_blend_lies_between_and_its_ends_are_the_two(small_model: FaceModel) -> None:
    one, other = copy.deepcopy(small_model), copy.deepcopy(small_model)
    with torch.no_grad():
        for module in other.modules.values():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape))

    def values(model: FaceModel) -> list[torch.Tensor]:
        return [value for module in model.modules.values() for value in module.state_dict().values()]

    before, after = [value.clone() for value in values(one)], values(other)
    assert all(map(torch.equal, values(blended(copy.deepcopy(one), other, 0.0)), before))
    assert all(map(torch.equal, values(blended(copy.deepcopy(one), other, 1.0)), after))
    for got, a, b in zip(values(blended(one, other, 0.25)), before, after, strict=True):
        torch.testing.assert_close(got, 0.75 * a + 0.25 * b if a.is_floating_point() else a)


def test_what_cannot_be_blended_is_refused(small_model: FaceModel) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        blended(copy.deepcopy(small_model), copy.deepcopy(small_model), 1.5)
    bare = copy.deepcopy(small_model)
    bare.controls = None
    with pytest.raises(CheckpointError, match="has no controls"):
        blended(bare, copy.deepcopy(small_model), 0.5)
    wider = copy.deepcopy(small_model)
    wider.controls.register_buffer("extra", torch.zeros(1))
    with pytest.raises(CheckpointError, match="whose controls differ in shape"):
        blended(wider, copy.deepcopy(small_model), 0.5)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model folder .*nowhere"):
        load_model(tmp_path / "nowhere")


def test_controls_of_another_base_or_scale_are_refused(small_model: FaceModel, tmp_path: Path) -> None:
    path = tmp_path / "controls.safetensors"
    sizes = {"context_width": 16, "landmark_channels": (3, 16), "landmark_strides": (2,)}
    save_part(FaceControls([32, 32, 64, 32], **sizes), path, "controls", "mini")
    with pytest.raises(CheckpointError, match=r"widths \[32, 32, 64, 32\], this one has \[32, 32, 32, 32\]"):
        load_controls(path, small_model)
    save_part(FaceControls([32] * 4, **sizes), path, "controls", "arc2face")
    with pytest.raises(CheckpointError, match="not a mini controls of facecrafter-1: its scale says arc2face"):
        load_controls(path, small_model)


def test_a_failed_write_leaves_the_old_file_and_no_partial(
    folder: Path, small_model: FaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "unet.safetensors"
    before = path.read_bytes()

    def full_disk(tensors: dict[str, torch.Tensor], target: Path, metadata: dict[str, str]) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facecrafter.models.checkpoint.save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"unet\.safetensors could not be written: .*No space left"):
        save_part(small_model.unet, path, "unet", "mini")
    assert path.read_bytes() == before
    assert not list(folder.glob("*.partial"))


def test_a_place_that_cannot_be_written_to_is_named(small_model: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be written"):
        save_part(small_model.unet, tmp_path / "nowhere" / "unet.safetensors", "unet", "mini")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        save_model(small_model, tmp_path / "file")
