"""The baselines: they start as the base, guide as Eq. 6 has it, come back from files, and refuse the wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from facecrafter import baselines
from facecrafter.baselines import ELSEWHERE, TRAINED, baseline_class, load
from facecrafter.baselines.base import FILE, Baseline, BaselineGenerator, load_baseline, save_baseline
from facecrafter.errors import CheckpointError, ConfigError, FaceCrafterError
from facecrafter.models import scales
from facecrafter.models.checkpoint import FaceModel, save_model
from facecrafter.models.controls import parameter_count
from facecrafter.models.deep_autoencoder import DeepAutoencoder
from facecrafter.models.scales import Scale
from facecrafter.request import Portrait, Request, images_of
from facecrafter.sampling.guidance import Guidance
from facecrafter.sampling.sampler import Sampler, build_scheduler

SOURCE = torch.Generator().manual_seed(0)
NOISY = torch.randn(3, 32, 8, 8, generator=SOURCE)
TIMES = torch.tensor([900, 500, 20])


def made(kind: str, base: FaceModel, live: bool = True) -> Baseline:
    """A baseline as training begins with it; a live one has nothing left that is zero."""
    torch.manual_seed(3)
    baseline = baseline_class(kind).beside(base).requires_grad_(False).eval()
    for parameter in baseline.parameters() if live else ():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return baseline


def conditions(baseline: Baseline, people: list[Portrait]) -> Tensor:
    return torch.from_numpy(np.stack([baseline.read(one, 128) for one in people[:3]]))


@pytest.mark.parametrize("kind", TRAINED)
@torch.no_grad()
def test_a_fresh_baseline_is_the_base_to_the_bit_and_a_live_one_is_not(
    kind: str, small_model: FaceModel, people: list[Portrait]
) -> None:
    tokens = small_model.encoder(torch.from_numpy(np.stack([one.embedding for one in people[:3]])))
    base = small_model.unet(NOISY, TIMES, tokens).sample
    for live in (False, True):
        baseline = made(kind, small_model, live)
        condition = conditions(baseline, people)
        said = baseline.predict(small_model.unet, NOISY, TIMES, tokens, baseline.prepare(condition), torch.arange(3))
        assert torch.equal(said, base) == (not live)
    # Of a live one the samples without condition are the base's too.
    some = baseline.predict(small_model.unet, NOISY, TIMES, tokens, baseline.prepare(condition[[1]]), torch.tensor([1]))
    assert torch.equal(some[[0, 2]], base[[0, 2]])
    assert not torch.equal(some[1], base[1])
    torch.testing.assert_close(some[1], said[1], rtol=0, atol=1e-5)
    none = baseline.predict(small_model.unet, NOISY, TIMES, tokens, None, torch.zeros(0, dtype=torch.long))
    assert torch.equal(none, base)


@pytest.mark.parametrize("kind", TRAINED)
def test_images_have_their_shape_and_depend_on_their_own_request(
    kind: str, small_model: FaceModel, requests: list[Request]
) -> None:
    method = BaselineGenerator(made(kind, small_model), small_model, steps=2)
    images = images_of(method, requests)
    assert images.shape == (4, 128, 128, 3)
    assert images.dtype == np.uint8
    assert images.std() > 5
    np.testing.assert_array_equal(images_of(method, requests), images)
    for index, request in enumerate(requests):
        alone = images_of(method, [request])[0].astype(int)
        assert np.abs(alone - images[index]).max() <= 1
    other = [dataclasses.replace(requests[0], seed=9), *requests[1:]]
    again = images_of(method, other)
    np.testing.assert_array_equal(again[1:], images[1:])
    assert np.abs(again[0].astype(int) - images[0]).max() > 5
    assert images_of(method, []).shape == (0, 128, 128, 3)
    assert (method.size, method.extra_parameters) == (128, parameter_count([method.baseline]))


def test_what_a_baseline_cannot_read_changes_nothing(small_model: FaceModel, people: list[Portrait]) -> None:
    plain, posed = (Request(people[0], {"landmark": target}, 1) for target in (None, people[1]))
    faceid = BaselineGenerator(made("ip_adapter", small_model), small_model, steps=1)
    np.testing.assert_array_equal(*(images_of(faceid, [request]) for request in (plain, posed)))
    expression = BaselineGenerator(made("expression_adapter", small_model), small_model, steps=1)
    turned = dataclasses.replace(people[1], points=people[2].points)
    first, second = (images_of(expression, [Request(people[0], {"landmark": one}, 1)]) for one in (people[1], turned))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(images_of(expression, [plain]), first)


@pytest.mark.parametrize("kind", ["controlnet", "caphuman", "expression_adapter"])
def test_without_a_condition_the_images_are_ours(kind: str, small_model: FaceModel, people: list[Portrait]) -> None:
    """The same noise, schedule, guidance and rounding for the same seed; kernels differ by the shapes they get."""
    baseline = BaselineGenerator(made(kind, small_model), small_model)
    sampling: Any = small_model.scale.sampling
    images = Sampler(small_model).generate(
        torch.from_numpy(np.stack([one.embedding for one in people[:2]])),
        guidance=Guidance(sampling["identity_scale"]),
        steps=sampling["steps"],
        seeds=[7, 8],
        scheduler=sampling["scheduler"],
    )
    ours = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    theirs = images_of(baseline, [Request(people[0], seed=7), Request(people[1], seed=8)])
    assert np.abs(theirs.astype(int) - ours).max() <= 1 and (theirs == ours).mean() > 0.999


@pytest.mark.parametrize(("kind", "scheduler"), [("controlnet", "ddim"), ("expression_adapter", "euler")])
@torch.no_grad()
def test_guidance_is_a_plain_loop_of_equation_6(
    kind: str, scheduler: str, small_model: FaceModel, people: list[Portrait]
) -> None:
    baseline = made(kind, small_model)
    method = BaselineGenerator(baseline, small_model, 1.7, 2.2, 3, scheduler)
    embedding = torch.from_numpy(people[0].embedding)[None]
    tokens, empty = small_model.encoder(embedding), small_model.encoder.unconditional(1)
    prepared = baseline.prepare(torch.from_numpy(baseline.read(people[1], 128))[None])
    solver = build_scheduler(scheduler, dict(small_model.scale.scheduler))
    solver.set_timesteps(3)
    latents = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(4)) * solver.init_noise_sigma
    for time in solver.timesteps:
        noisy, times = solver.scale_model_input(latents, time), time[None]
        none, who = (small_model.unet(noisy, times, context).sample for context in (empty, tokens))
        posed = baseline.predict(small_model.unet, noisy, times, tokens, prepared, torch.tensor([0]))
        latents = solver.step(none + 1.7 * (who - none) + 2.2 * (posed - who), time, latents).prev_sample
    expected = small_model.autoencoder.decode(latents).sample.clamp(-1, 1)
    got = images_of(method, [Request(people[0], {"landmark": people[1]}, 4)])[0].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0), atol=0.51 / 127.5 + 1e-3)


@torch.no_grad()
def test_the_identity_baseline_never_sees_identity_tokens(small_model: FaceModel, people: list[Portrait]) -> None:
    class Blind(torch.nn.Module):
        def unconditional(self, batch: int) -> Tensor:
            return small_model.encoder.unconditional(batch)

        def forward(self, embedding: Tensor) -> Tensor:
            return torch.full((len(embedding), 8, 128), torch.nan)

    blind = dataclasses.replace(small_model, encoder=Blind())
    request = [Request(people[0], seed=1)]
    images = [
        images_of(BaselineGenerator(made("ip_adapter", model), model, steps=2), request)
        for model in (small_model, blind)
    ]
    np.testing.assert_array_equal(*images)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINED)
def test_a_round_trip_is_exact(kind: str, small_model: FaceModel, model_folder: Path, tmp_path: Path) -> None:
    baseline = made(kind, small_model)
    save_baseline(baseline, tmp_path / "run" / "model", "mini")
    again = load(kind, tmp_path / "run" / "model", model_folder, steps=1)
    assert isinstance(again, BaselineGenerator)
    before, after = baseline.state_dict(), again.baseline.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not again.baseline.training
    assert again.key == BaselineGenerator(baseline, small_model, steps=1).key
    file = tmp_path / "run" / "model" / FILE
    assert load(kind, file, small_model).key != again.key  # other steps, other images


def test_it_computes_where_it_is_told(small_model: FaceModel, model_folder: Path, tmp_path: Path) -> None:
    save_baseline(made("controlnet", small_model), tmp_path, "mini")
    method = load("controlnet", tmp_path, model_folder, "meta")
    assert isinstance(method, BaselineGenerator)
    for module in (method.baseline, *method.base.modules.values()):
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_the_key_is_of_weights_and_settings(small_model: FaceModel) -> None:
    baseline = made("expression_adapter", small_model)
    first = BaselineGenerator(baseline, small_model)
    assert BaselineGenerator(baseline, small_model, batch_size=3).key == first.key
    others = [
        BaselineGenerator(baseline, small_model, identity_scale=3.0),
        BaselineGenerator(baseline, small_model, condition_scale=3.0),
        BaselineGenerator(baseline, small_model, steps=3),
        BaselineGenerator(baseline, small_model, scheduler="dpm"),
        BaselineGenerator(made("expression_adapter", small_model, live=False), small_model),
        BaselineGenerator(made("ip_adapter", small_model), small_model),
    ]
    assert len({first.key, *(method.key for method in others)}) == 7


def test_a_wrong_file_is_refused(small_model: FaceModel, tiny_model: FaceModel, tmp_path: Path) -> None:
    for kind in ("controlnet", "expression_adapter"):
        save_baseline(made(kind, small_model), tmp_path / kind, "mini")
    good = tmp_path / "controlnet" / FILE
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    save_file(load_file(good), tmp_path / "bare.safetensors")
    wrong: list[tuple[str, Path, FaceModel, str]] = [
        ("controlnet", tmp_path / "nowhere.safetensors", small_model, "there is no checkpoint .*nowhere"),
        ("controlnet", tmp_path / "cut.safetensors", small_model, "not a whole safetensors file"),
        ("controlnet", tmp_path / "bare.safetensors", small_model, "its format says nothing"),
        ("caphuman", good, small_model, "is not a caphuman baseline for mini: its kind says controlnet"),
        ("controlnet", good, dataclasses.replace(small_model, scale=scales.ARC2FACE), "its scale says mini"),
        ("controlnet", good, tiny_model, "was trained on a base of other widths"),
        ("expression_adapter", tmp_path / "expression_adapter", tiny_model, "was trained on a base of other widths"),
    ]
    for kind, path, base, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            load_baseline(baseline_class(kind), path, base)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("control_net", {}, "unknown baseline 'control_net'; there are controlnet, caphuman"),
        ("controlnet", {"step": 3}, "the baseline controlnet has no setting 'step'; there are identity_scale"),
        ("controlnet", {"scheduler": "heun"}, "unknown scheduler 'heun'"),
        ("controlnet", {"steps": 0}, "steps must be from 1"),
        ("controlnet", {"identity_scale": "3e0"}, "the setting identity_scale cannot be '3e0'"),
        ("controlnet", {"steps": True}, "the setting steps cannot be True"),
        ("controlnet", {"batch_size": 0}, "batch_size must be at least 1"),
        ("controlnet", {"condition_scale": float("nan")}, "the landmark scale must be a number"),
        *((kind, {}, "expects?.*; make its images with its own code, and give the folder") for kind in ELSEWHERE),
    ],
)
def test_bad_settings_are_refused(
    kind: str, settings: dict[str, Any], message: str, small_model: FaceModel, tmp_path: Path
) -> None:
    save_baseline(made("controlnet", small_model), tmp_path, "mini")
    with pytest.raises(ConfigError, match=message) as caught:
        load(kind, tmp_path, small_model, **settings)
    assert "\n" not in str(caught.value)


def test_an_embedding_of_another_recogniser_is_refused(small_model: FaceModel, people: list[Portrait]) -> None:
    stranger = dataclasses.replace(people[0], embedding=np.ones(512, np.float32))
    method = BaselineGenerator(made("controlnet", small_model), small_model)
    with pytest.raises(FaceCrafterError, match="reads embeddings of 128 numbers, not 512"):
        images_of(method, [Request(stranger, seed=0)])


# --- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "projections", "counts"),
    [
        ("mini", 1024 * 256, {"controlnet": 11_996_496}),
        ("arc2face", 12_480 * 768, {"controlnet": 361_279_120}),  # ControlNet's own number, to the last digit
    ],
)
def test_parameters(scale: str, projections: int, counts: dict[str, int]) -> None:
    with torch.device("meta"):
        base = FaceModel(scales.SCALES[scale], scales.build_unet(scales.SCALES[scale]), None, None)  # type: ignore[arg-type]
        found = {kind: parameter_count([baseline_class(kind).beside(base)]) for kind in TRAINED}
    width, embedding = base.unet.config.cross_attention_dim, base.scale.embedding

    def two_layers(inputs: int, hidden: int, outputs: int) -> int:
        return (inputs + 1) * hidden + (hidden + 1) * outputs

    assert found == {
        **counts,
        "caphuman": counts["controlnet"] + 2 * 9 * 16,  # two more channels in the first convolution
        "ip_adapter": 2 * projections + two_layers(embedding, 2 * embedding, 4 * width) + 2 * width,
        "expression_adapter": 2 * projections + two_layers(52, width, width) + 2 * width,
    }


@pytest.mark.parametrize("kind", ["controlnet", "caphuman"])
@torch.no_grad()
def test_a_copy_of_the_encoder_reads_conditions_at_256_px(kind: str, small_scale: Scale) -> None:
    """Each of the convolutions before it halves the side until the latents' 8x8 places are left."""
    with torch.device("meta"):
        scale = scales.fitting(small_scale, DeepAutoencoder())
        base = FaceModel(scale, scales.build_unet(scale), None, None)  # type: ignore[arg-type]
        copy = baseline_class(kind).beside(base)
        read = copy.controlnet_cond_embedding(torch.empty(1, copy.channels, scale.size, scale.size))
    assert (scale.size, tuple(read.shape)) == (256, (1, 32, 8, 8))


def test_no_name_is_taken_twice() -> None:
    kinds = [*TRAINED, *baselines.PUBLISHED, *ELSEWHERE]
    assert len(set(kinds)) == len(kinds)


def test_saving_leaves_nothing_half_written(small_model: FaceModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be made"):
        save_baseline(made("ip_adapter", small_model), tmp_path / "file" / "model", "mini")
    save_model(small_model, tmp_path / "model")
    save_baseline(made("ip_adapter", small_model), tmp_path / "model", "mini")
    assert not list(tmp_path.rglob("*.partial"))
