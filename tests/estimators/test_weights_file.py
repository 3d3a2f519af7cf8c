"""Published files: what is read of them, and what is said of files that are others."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from facecrafter.errors import WeightsError
from facecrafter.estimators.weights_file import Published, fill, read

ANY = Published("Small", "small.pth")
STATE = {
    "0.weight": torch.arange(6.0).reshape(2, 3),
    "0.bias": torch.ones(2),
    "1.weight": torch.full((2,), 2.0),
    "1.bias": torch.zeros(2),
    "1.running_mean": torch.zeros(2),
    "1.running_var": torch.ones(2),
    "1.num_batches_tracked": torch.tensor(7),
}


def load(path: Path, published: Published = ANY) -> nn.Module:
    state = read(path, published)
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return fill(network, state, path, published)


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in STATE.items() if name not in names}


# A checkpoint as old PyTorch Lightning writes it: classes for keys, and settings of classes that PyTorch does not know.
LIGHTNING = {
    "epoch": 3,
    "callbacks": {argparse.ArgumentParser: {"best": torch.ones(1)}},
    "hyper_parameters": argparse.Namespace(model=Path("here"), deep=argparse.Namespace(rate=0.1)),
    "state_dict": STATE,
}


class Settings(dict):  # type: ignore[type-arg]
    """A dictionary of another program's, as training frameworks keep settings in."""


GOOD: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: torch.save(STATE, path),
    "the old format": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "with more": lambda path: torch.save(STATE | {"logits.weight": torch.zeros(9)}, path),
    "without counts": lambda path: torch.save(without("1.num_batches_tracked"), path),
    "half precision": lambda path: torch.save({name: value.half() for name, value in STATE.items()}, path),
    "Lightning": lambda path: torch.save(LIGHTNING, path),
    "Lightning in the old format": lambda path: torch.save(LIGHTNING, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("case", GOOD)
def test_weights_come_back(case: str, tmp_path: Path) -> None:
    GOOD[case](tmp_path / "small.pth")
    network = load(tmp_path / "small.pth")
    found = network.state_dict()
    for name in without("1.num_batches_tracked"):
        assert torch.equal(found[name], STATE[name]) and found[name].dtype == torch.float32
    assert not network.training and not any(value.requires_grad for value in network.parameters())


class Trap:
    """What a pickle may run when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (eval, ("open('sprung', 'w').close()",))


def saved(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "there is no Small file"),
    "a folder": (Path.mkdir, "there is no Small file"),
    "an empty file": (Path.touch, "is damaged, or is no file of PyTorch weights"),
    "words": (lambda path: path.write_text("hello"), "is damaged, or is no file of PyTorch weights"),
    "code": (saved({"0.weight": Trap()}), "6 of 7 weights are missing"),
    "a list": (saved([torch.zeros(3)]), "6 of 7 weights are missing"),
    "numbers for names": (saved({1: torch.zeros(3)}), "6 of 7 weights are missing"),
    "another checkpoint": (saved({"state_dict": [1, 2]}), "6 of 7 weights are missing"),
    "another network": (saved({"fc.weight": torch.zeros(3)}), "6 of 7 weights are missing, 0.weight the first of them"),
    "one missing": (saved(without("1.running_var")), "1 of 7 weights are missing, 1.running_var the first"),
    "another shape": (saved(STATE | {"0.bias": torch.zeros(3)}), "0.bias has the shape (3,) in place of (2,)"),
    "not a number": (saved(STATE | {"0.bias": torch.full((2,), torch.nan)}), "0.bias has values that are not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = WRONG[case]
    monkeypatch.chdir(tmp_path)
    make(Path("small.pth"))
    with pytest.raises(WeightsError) as raised:
        load(Path("small.pth"))
    told = str(raised.value)
    assert words in told and "small.pth" in told and "\n" not in told
    assert told.endswith("give the published small.pth")
    assert not Path("sprung").exists()


def test_a_file_of_other_numbers_is_known_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(STATE, path)
    right = Published("Small", "small.pth", hashlib.sha256(path.read_bytes()).hexdigest())
    assert isinstance(load(path, right), nn.Module)
    torch.save(STATE | {"0.bias": torch.zeros(2)}, path)
    with pytest.raises(
        WeightsError, match="is not the Small file: it has the right names and shapes but other weights"
    ):
        load(path, right)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_another_program_is_no_damaged_file(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "small.ckpt"
    content = {"settings": Settings(rate=0.1), "state_dict": STATE}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    words = (
        rf"small\.ckpt is a pickle with objects of other programs \({__name__}\.Settings\), whose code is not run "
        r"here; if you trust the file, save .*torch\.save\(checkpoint\['state_dict'\], FILE\); give the pub"
    )
    with pytest.raises(WeightsError, match=words):
        load(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_file_of_another_program_is_damaged(share: float, tmp_path: Path) -> None:
    path = tmp_path / "small.ckpt"
    torch.save(LIGHTNING, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"small\.ckpt is damaged"):
        load(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_file_is_damaged(share: float, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"small\.pth is damaged"):
        load(path)
