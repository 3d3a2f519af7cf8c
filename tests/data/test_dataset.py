"""The training set: twins in the mirror, identities from other photos, latents encoded once."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from facecrafter.data import dataset
from facecrafter.data.dataset import TrainingSet
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.estimators.differentiable import ARCFACE_CROP
from facecrafter.estimators.identity import ARCFACE_TEMPLATE
from facecrafter.faces import landmarks
from facecrafter.faces.face import LEFT_EYE, MOUTH_CORNERS, NOSE_TIP, RIGHT_EYE
from facecrafter.models import scales
from facecrafter.models.autoencoder import FaceAutoencoder

COUNT = 8
CPU = torch.device("cpu")


@pytest.fixture
def data(prepared: Prepared) -> TrainingSet:
    return TrainingSet(prepared, None, {"landmark": {"size": 32}})


def identities(data: TrainingSet, index: int, swap: bool, pick: float) -> Tensor:
    return data.identities(torch.tensor([index]), torch.tensor([swap]), torch.tensor([pick]))[0]


def test_images_are_the_photos_and_their_mirror_images(data: TrainingSet, prepared: Prepared) -> None:
    assert len(data) == 2 * COUNT
    got = data.images(torch.tensor([2, 2 + COUNT, 5]))
    expected = prepared.images[[2, 5]].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(got[1], expected[0][:, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(got[2], expected[1], atol=1e-6)
    assert got.dtype == torch.float32
    assert got.min() >= -1
    assert got.max() <= 1


def test_landmark_images_are_mirrored_with_their_images(data: TrainingSet, prepared: Prepared) -> None:
    first, twin = data.conditions("landmark", torch.tensor([3, 3 + COUNT]))
    drawn = landmarks.draw(prepared.points[3], 128, 32).astype(np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(first, drawn, atol=1e-6)
    np.testing.assert_allclose(twin, drawn[:, :, ::-1], atol=1e-6)
    assert first.max() <= 1
    assert first.std() > 0.05


@pytest.mark.parametrize("at_once", [dataset.PLACED_AT_ONCE, 3])
def test_what_is_placed_on_an_accelerator_is_what_was_there_before(
    at_once: int, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PLACED_AT_ONCE", at_once)
    chosen = torch.tensor([2, 2 + COUNT, 5, 2])
    before = data.images(chosen), data.face_masks(chosen), data.conditions("landmark", chosen)
    placed: list[torch.Size] = []

    def stay(tensor: Tensor, *_: object) -> Tensor:
        placed.append(tensor.shape)
        return tensor

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**30))
    with monkeypatch.context() as patch:  # there is none here: what is sent to it stays
        patch.setattr(torch.Tensor, "to", stay)
        data.place(torch.device("cuda"), ["landmark"])
    assert sum(shape[0] for shape in placed[:-2]) == COUNT and len(placed) == 2 + -(-COUNT // at_once)
    assert placed[-2:] == [(COUNT, 64, 64), (COUNT, 32, 32, 3)]
    data.pixels = np.zeros_like(data.pixels)
    after = data.images(chosen), data.face_masks(chosen), data.conditions("landmark", chosen)
    for made, expected in zip(after, before, strict=True):
        assert torch.equal(made, expected)


def test_an_accelerator_that_draws_is_not_asked_which_samples_it_drew(
    data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor on the meta device has no numbers: whatever wants to know one fails."""
    real, meta = Tensor.to, torch.device("meta")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**30))
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "to", lambda tensor, *_: real(tensor, meta))
        data.place(torch.device("cuda"), ["landmark"])
    data.place_identities(meta)
    chosen = torch.empty(5, dtype=torch.int64, device=meta)
    swap, pick = torch.empty(5, dtype=torch.bool, device=meta), torch.empty(5, device=meta)
    made = (
        data.images(chosen),
        data.face_masks(chosen),
        data.conditions("landmark", chosen),
        data.identities(chosen, swap, pick),
    )
    assert [(one.device, tuple(one.shape)) for one in made] == [
        (meta, shape) for shape in ((5, 3, 128, 128), (5, 64, 64), (5, 3, 32, 32), (5, 128))
    ]


@pytest.mark.parametrize(("device", "free"), [("cpu", 2**30), ("cuda", 2**10)])
def test_nothing_is_placed_on_a_cpu_or_where_there_is_no_room(
    device: str, free: int, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    data.place(torch.device(device), ["landmark"])
    assert data._placed_images is None
    assert data.masks.device == CPU
    assert data.encoded["landmark"].placed is None


def test_landmark_images_are_drawn_once_where_they_fit(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = landmarks.draw

    def counted(points: np.ndarray, *rest: int) -> np.ndarray:
        drawn.append(1)
        return real(points, *rest)

    monkeypatch.setattr(landmarks, "draw", counted)
    indices = torch.tensor([1, 1 + COUNT, 1, 4])
    kept = TrainingSet(prepared, None, {"landmark": {"size": 16}})
    first = kept.conditions("landmark", indices)
    assert torch.equal(kept.conditions("landmark", indices), first)
    assert len(drawn) == 2
    monkeypatch.setattr(dataset, "_KEPT_LIMIT", 0)
    assert torch.equal(TrainingSet(prepared, None, {"landmark": {"size": 16}}).conditions("landmark", indices), first)
    assert len(drawn) == 2 + 2


@pytest.mark.parametrize(("index", "others"), [(0, [1, 5]), (5, [0, 1]), (2, [4, 6]), (3, [3]), (7, [7])])
def test_an_identity_comes_from_another_photo_of_the_same_person(
    index: int, others: list[int], data: TrainingSet
) -> None:
    """Ann is 0, 1, 5; Bob 2, 4, 6; Ida 3 and Cid 7 have one photo, which then stands for itself."""
    for twin in (index, index + COUNT):
        assert torch.equal(identities(data, twin, False, 0.9), data.identity[index])
        got = [identities(data, twin, True, pick) for pick in (0.0, 0.49, 0.51, 0.9999)]
        expected = [others[0], others[0], others[-1], others[-1]]
        assert all(torch.equal(a, data.identity[b]) for a, b in zip(got, expected, strict=True))


def test_crop_grids_cut_a_face_and_its_twin_where_they_are(data: TrainingSet) -> None:
    """An image whose pixels say where they are: the crop of a twin is the mirror image of the photo's crop, up to
    which eye is called right, which a made-up face of five points settles."""
    five = np.array([[40.0, 50.0], [90.0, 54.0], [66.0, 80.0], [48.0, 100.0], [88.0, 98.0]])
    for place, point in zip(
        (RIGHT_EYE, LEFT_EYE, (NOSE_TIP,), MOUTH_CORNERS[:1], MOUTH_CORNERS[1:]), five, strict=True
    ):
        data.points[1][list(place), :2] = point
    grid, twin = data.crop_grids(ARCFACE_CROP, torch.tensor([1, 1 + COUNT])).numpy()
    assert np.array_equal(grid, ARCFACE_CROP.grid(five, 128))
    mirrored = np.stack([127 - five[:, 0], five[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
    assert np.array_equal(twin, ARCFACE_CROP.grid(mirrored, 128))
    template = (ARCFACE_TEMPLATE + 0.5) / 56 - 1  # in the crop's own [-1, 1]
    for matrix, points in ((grid, five), (twin, mirrored)):
        read = (np.column_stack([template, np.ones(5)]) @ matrix.T + 1) * 64 - 0.5
        assert np.abs(read - points).max() < 8  # a similarity cannot fit five points exactly
        assert np.abs(read.mean(0) - points.mean(0)).max() < 1e-3


def test_the_usual_crop_is_its_own_mirror_image(data: TrainingSet) -> None:
    grid = data.usual_crop_grid(ARCFACE_CROP).numpy()
    turn = grid[0, 1] - -grid[1, 0]
    assert abs(turn) < 1e-6
    left, right = (grid @ [x, 0.0, 1.0] for x in (-1.0, 1.0))
    assert left[0] + right[0] == pytest.approx(2 * grid[0, 2], abs=1e-6)


def test_emotions_belong_to_the_photo_and_to_its_twin(data: TrainingSet, prepared: Prepared) -> None:
    got = data.conditions("emotion", torch.tensor([6, 6 + COUNT]))
    np.testing.assert_array_equal(got, prepared.emotion[[6, 6]])


def test_only_what_is_kept_is_used(prepared: Prepared) -> None:
    keep = ~held_out(prepared.persons)
    assert keep.tolist() == [person != "Ida" for person in prepared.persons]
    data = TrainingSet(prepared, keep, {"landmark": {"size": 16}})
    assert len(data) == 14
    assert "Ida" not in data.persons
    # Sample 3 is now Bob's second photo, number 4 of the folder; its mirror image is 3 + 7.
    np.testing.assert_allclose(
        data.images(torch.tensor([3 + 7]))[0, :, :, ::1].flip(2), data.images(torch.tensor([3]))[0]
    )
    np.testing.assert_array_equal(data.identity[3], prepared.identity[4])
    assert torch.equal(identities(data, 3, True, 0.0), data.identity[2])


def test_an_empty_choice_is_refused(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="no sample is left to train on"):
        TrainingSet(prepared, np.zeros(COUNT, bool))


# --- latents ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder() -> FaceAutoencoder:
    torch.manual_seed(0)
    made = scales.build_autoencoder(scales.MINI)
    assert isinstance(made, FaceAutoencoder)
    return made.requires_grad_(False).eval()


def test_latents_are_the_autoencoders_means(data: TrainingSet, autoencoder: FaceAutoencoder, tmp_path: Path) -> None:
    data.encode(autoencoder, tmp_path / "new" / "cache", CPU, progress=False)
    assert data.latents is not None
    assert data.latents.shape == (2 * COUNT, 32, 8, 8)
    assert data.latents.dtype == torch.float16
    for index in (1, 1 + COUNT):
        expected = autoencoder.encode(data.images(torch.tensor([index]))).latent_dist.mode()[0]
        # Encoded under bfloat16 autocast, which keeps eight bits.
        assert (data.latents[index].float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert not list(tmp_path.rglob("*.partial"))


class Recorder:
    """An autoencoder that keeps the size of each batch and gives the mean colour of places of 8 x 8."""

    def __init__(self) -> None:
        self.config, self.sizes = types.SimpleNamespace(scaling_factor=1.0), []

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": torch.zeros(1)}

    def encode(self, images: Tensor) -> types.SimpleNamespace:
        self.sizes.append(len(images))
        means = torch.nn.functional.avg_pool2d(images, 8)
        return types.SimpleNamespace(latent_dist=types.SimpleNamespace(mode=lambda: means))


@pytest.mark.parametrize(("side", "sizes"), [(128, [16]), (512, [4, 4, 4, 4]), (1024, [1] * 16), (2048, [1] * 16)])
def test_a_batch_to_encode_is_bounded_by_its_pixels(
    prepared: Prepared, side: int, sizes: list[int], tmp_path: Path
) -> None:
    """64 images of 128 px, and 4 of 512 px, whose encoder would otherwise take 22 GB."""
    shades = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(shades, (COUNT, side, side, 3))
    data, recorder = (
        TrainingSet(dataclasses.replace(prepared, images=images), None, {"landmark": {"size": 16}}),
        Recorder(),
    )
    data._digests = np.zeros((COUNT, 32), np.uint8)
    data.encode(recorder, tmp_path, CPU, progress=False)
    assert recorder.sizes == sizes
    assert data.latents is not None and data.latents.shape == (2 * COUNT, 3, side // 8, side // 8)
    expected = torch.arange(COUNT).repeat(2) / 127.5 - 1
    torch.testing.assert_close(data.latents[:, 0, 0, 0].float(), expected, atol=2e-3, rtol=0)


def test_latents_do_not_depend_on_how_many_are_encoded_at_once(
    data: TrainingSet, autoencoder: FaceAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for at_once in (16, 4, 3, 1):
        monkeypatch.setattr(dataset, "PIXELS_AT_ONCE", at_once * 128 * 128)
        data.encode(autoencoder, tmp_path / str(at_once), CPU, progress=False)
        assert data.latents is not None
        made.append(data.latents.float())
    for latents in made[1:]:
        # The order of sums in a convolution may change with the batch: within a step or two of bfloat16's eight bits.
        assert (latents - made[0]).abs().max() < 0.02 * made[0].abs().max()


def test_latents_are_computed_once_for_an_autoencoder_and_its_samples(
    prepared: Prepared, autoencoder: FaceAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = np.arange(COUNT) < 2
    first = TrainingSet(prepared, few, {"landmark": {"size": 16}})
    first.encode(autoencoder, tmp_path, CPU, progress=False)
    again = TrainingSet(prepared, few, {"landmark": {"size": 16}})
    with monkeypatch.context() as patch:
        patch.setattr(FaceAutoencoder, "encode", None)  # calling it would fail
        again.encode(autoencoder, tmp_path, CPU, progress=False)
    assert torch.equal(again.latents, first.latents)  # type: ignore[arg-type]
    TrainingSet(prepared, ~few, {"landmark": {"size": 16}}).encode(autoencoder, tmp_path, CPU, progress=False)
    other = scales.build_autoencoder(scales.MINI).requires_grad_(False)
    first.encode(other, tmp_path, CPU, progress=False)
    assert len(list(tmp_path.glob("latents-*.safetensors"))) == 3
    assert not torch.equal(again.latents, first.latents)  # type: ignore[arg-type]


def test_latents_of_a_folder_are_known_by_its_digests_and_not_by_all_pixels(
    prepared: Prepared, autoencoder: FaceAutoencoder, tmp_path: Path
) -> None:
    digests = np.random.default_rng(0).integers(0, 256, (COUNT, 32), np.uint8)
    few, other = np.arange(COUNT) < 2, np.where(np.arange(COUNT)[:, None] == 1, digests + 1, digests)

    def encoded(digests: NDArray[np.uint8], keep: NDArray[np.bool_], shown: bool = True) -> list[str]:
        """The caches there are afterwards."""
        data = TrainingSet(dataclasses.replace(prepared, digests=digests), keep, {"landmark": {"size": 16}})
        if not shown:
            data.pixels = None  # type: ignore[assignment]  # looking at them would fail
        data.encode(autoencoder, tmp_path, CPU, progress=False)
        return sorted(path.name for path in tmp_path.iterdir())

    first = encoded(digests, few)
    assert encoded(digests, few, shown=False) == first
    assert encoded(np.where(np.arange(COUNT)[:, None] == 7, digests + 1, digests), few, shown=False) == first
    assert len(encoded(other, few)) == 2
    assert len(encoded(digests, np.arange(COUNT) < 1)) == 3


def test_latents_are_scaled_by_the_autoencoders_factor(
    prepared: Prepared, autoencoder: FaceAutoencoder, tmp_path: Path
) -> None:
    one = np.arange(COUNT) == 0
    plain, scaled = (
        TrainingSet(prepared, one, {"landmark": {"size": 16}}),
        TrainingSet(prepared, one, {"landmark": {"size": 16}}),
    )
    plain.encode(autoencoder, tmp_path, CPU, progress=False)
    autoencoder.register_to_config(scaling_factor=0.5)
    try:
        scaled.encode(autoencoder, tmp_path, CPU, progress=False)
    finally:
        autoencoder.register_to_config(scaling_factor=1.0)
    assert plain.latents is not None
    assert scaled.latents is not None
    torch.testing.assert_close(scaled.latents.float(), plain.latents.float() / 2, rtol=1e-3, atol=1e-4)


def test_another_size_of_image_keeps_its_landmarks(prepared: Prepared) -> None:
    """Points are in pixels of the images, whatever those measure."""
    halved = dataclasses.replace(prepared, images=prepared.images[:, ::2, ::2], points=prepared.points / 2)
    one = torch.tensor([0])
    first, second = (
        TrainingSet(given, None, {"landmark": {"size": 32}}).conditions("landmark", one) for given in (prepared, halved)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=2 / 255)
