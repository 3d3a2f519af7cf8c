"""The reverse process: reproducible, equal to a plain loop of Eq. 6, and free of work that nobody asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import diffusers
import pytest
import torch
from torch import Tensor, nn

from facecrafter.errors import ConfigError
from facecrafter.models import scales as zoo
from facecrafter.models.attention import AttentionInputs, cross_attention_names
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.controls import branches
from facecrafter.models.guidance_student import student_of
from facecrafter.sampling.guidance import Guidance
from facecrafter.sampling.plans import SPEEDS, interval
from facecrafter.sampling.sampler import SCHEDULERS, Sampler, build_scheduler, check_steps, decode

SOURCE = torch.Generator().manual_seed(0)
IDENTITY = torch.randn(3, 128, generator=SOURCE)
LANDMARK = torch.rand(3, 3, 128, 128, generator=SOURCE)
EMOTION = torch.rand(3, 10, generator=SOURCE)
SHOWN = {"landmark": LANDMARK, "emotion": EMOTION}


def scaled(identity: float, landmark: float, emotion: float) -> Guidance:
    return Guidance(identity, {"landmark": landmark, "emotion": emotion})


def rows_of(rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in SHOWN.items()}


@pytest.fixture(scope="module")
def sampler(small_model: FaceModel) -> Sampler:
    return Sampler(small_model)


@dataclass
class Work:
    """What one call of the sampler did."""

    unet_rows: list[int] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched(model: FaceModel) -> Iterator[Work]:
    """Counts rows of every prediction and calls of all that should run once an image."""
    work = Work()
    once: dict[str, nn.Module] = {"text_model": model.encoder.text_model}
    assert model.controls is not None
    layers = (nn.Linear, nn.Conv2d)
    once |= {name: module for name, module in model.controls.named_modules() if isinstance(module, layers)}
    modules = dict(model.unet.named_modules())
    for name in cross_attention_names(model.unet):
        block = name.removesuffix(".processor")
        once |= {f"{block}.{part}": modules[f"{block}.{part}"] for part in ("to_k", "to_v")}

    def counter(name: str):
        def count(*_: object) -> None:
            work.calls[name] = work.calls.get(name, 0) + 1

        return count

    hooks = [module.register_forward_hook(counter(name)) for name, module in once.items()]
    hooks.append(model.unet.conv_out.register_forward_pre_hook(lambda _, given: work.unet_rows.append(len(given[0]))))
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


def plain_loop(
    model: FaceModel,
    guidance: Guidance,
    steps: int,
    seeds: list[int],
    scheduler: str,
    landmark: bool = True,
    emotion: bool = True,
    guided: Callable[[int], bool] = lambda step: True,
    fresh: Callable[[int], bool] = lambda step: True,
) -> Tensor:
    """Eq. 6 as the paper writes it: separate predictions, conditions computed again every time.

    Args:
        guided: whether a step is; one that is not takes the prediction with all conditions.
        fresh: whether a step computes what Eq. 6 adds to the prediction with landmarks, or takes that of the last one
            that did.
    """
    tokens, empty = model.encoder(IDENTITY), model.encoder.unconditional(3)
    solver = build_scheduler(scheduler, model.scale.scheduler)
    solver.set_timesteps(steps)
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = torch.stack([torch.randn(32, 8, 8, generator=source) for source in sources]) * solver.init_noise_sigma
    assert model.controls is not None

    def predict(noisy: Tensor, time: Tensor, context: Tensor, values: dict[str, Tensor]) -> Tensor:
        assert model.controls is not None
        made = branches(model.controls, values, {name: torch.ones(3) for name in values})
        out: Tensor = model.unet(
            noisy, time, context, cross_attention_kwargs={"conditions": AttentionInputs(made)}
        ).sample
        return out

    def equation_6(noisy: Tensor, time: Tensor) -> Tensor:
        none, identity = predict(noisy, time, empty, {}), predict(noisy, time, tokens, {})
        e = none + guidance.identity * (identity - none)
        if landmark:
            e = e + guidance.controls["landmark"] * (predict(noisy, time, tokens, {"landmark": LANDMARK}) - identity)
        if emotion:
            e = e + guidance.controls["emotion"] * (predict(noisy, time, tokens, {"emotion": EMOTION}) - identity)
        return e

    for step, time in enumerate(solver.timesteps):
        noisy = solver.scale_model_input(latents, time)
        if not guided(step):
            e = predict(noisy, time, tokens, {"landmark": LANDMARK, "emotion": EMOTION})
        else:
            posed = predict(noisy, time, tokens, {"landmark": LANDMARK})
            if fresh(step):
                e = equation_6(noisy, time)
                difference = e - posed
            else:
                e = posed + difference
        options = {"generator": sources} if scheduler == "ddpm" else {}
        latents = solver.step(e, time, latents, **options).prev_sample
    out: Tensor = model.autoencoder.decode(latents).sample.clamp(-1, 1)
    return out


@pytest.mark.parametrize(
    ("scheduler", "scales"),
    [("dpm", (2.5, 2.0, 2.0)), ("ddim", (1.5, -1.0, 0.5)), ("ddpm", (3.0, 2.0, 1.0)), ("euler", (0.5, 1.0, 2.0))],
)
@torch.no_grad()
def test_the_sampler_is_a_plain_loop_of_equation_6(
    scheduler: str, scales: tuple[float, float, float], sampler: Sampler
) -> None:
    guidance, seeds = scaled(*scales), [5, 1, 9]
    got = sampler.generate(IDENTITY, SHOWN, guidance, 3, seeds, scheduler)
    expected = plain_loop(sampler.model, guidance, 3, seeds, scheduler)
    assert expected.std() > 0.01
    # Four calls and one call of four times the rows add up in another order; guidance multiplies the difference.
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


@torch.no_grad()
def test_guidance_on_an_interval_is_a_plain_loop_of_it(sampler: Sampler) -> None:
    guidance, seeds = scaled(2.5, 2.0, 1.5), [5, 1, 9]
    got = sampler.generate(IDENTITY, SHOWN, guidance, 5, seeds, "ddim", speed="interval")
    expected = plain_loop(sampler.model, guidance, 5, seeds, "ddim", guided=lambda step: step >= 3)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


@torch.no_grad()
def test_refreshed_differences_are_a_plain_loop_of_them(sampler: Sampler) -> None:
    guidance, seeds = scaled(2.5, 2.0, 1.5), [5, 1, 9]
    got = sampler.generate(IDENTITY, SHOWN, guidance, 5, seeds, "dpm", speed="refresh")
    expected = plain_loop(sampler.model, guidance, 5, seeds, "dpm", fresh=lambda step: step in (0, 3))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("speed", "rows"), [("interval", [1, 1, 1, 4, 4]), ("refresh", [4, 1, 1, 4, 1])])
def test_faster_ways_make_fewer_predictions_and_other_images(speed: str, rows: list[int], sampler: Sampler) -> None:
    asked = {"conditions": SHOWN, "steps": 5}
    with watched(sampler.model) as work:
        made = sampler.generate(IDENTITY, speed=speed, **asked)  # type: ignore[arg-type]
    assert work.unet_rows == [3 * count for count in rows]
    assert all(count == 1 for name, count in work.calls.items() if name.endswith((".to_k", ".to_v")))
    assert 1e-4 < (made - sampler.generate(IDENTITY, **asked)).abs().mean() < 0.5  # type: ignore[arg-type]
    alone = sampler.generate(IDENTITY[1:2], rows_of(slice(1, 2)), steps=5, seeds=[1], speed=speed)
    torch.testing.assert_close(alone[0], made[1], rtol=0, atol=2e-4)


def test_a_fresh_student_is_one_prediction_with_all_conditions(
    small_model: FaceModel, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEEDS, "together", partial(interval, first=1.0, last=1.0))
    asked = {"conditions": SHOWN, "steps": 3}
    student = Sampler(replace(small_model, distilled=student_of(small_model.unet, 4, "mini")))
    with watched(small_model) as work:
        made = student.generate(IDENTITY, speed="distilled", **asked)  # type: ignore[arg-type]
    assert work.unet_rows == [3] * 3
    assert torch.equal(made, sampler.generate(IDENTITY, speed="together", **asked))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no distilled network"):
        sampler.generate(IDENTITY, speed="distilled", **asked)  # type: ignore[arg-type]


@torch.no_grad()
def test_identity_alone_is_a_plain_loop_of_two_terms(sampler: Sampler) -> None:
    got = sampler.generate(IDENTITY, steps=2, seeds=[1, 2, 3])
    expected = plain_loop(sampler.model, Guidance(), 2, [1, 2, 3], "dpm", landmark=False, emotion=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_makes_images_that_its_seeds_repeat(scheduler: str, sampler: Sampler) -> None:
    options = {"steps": 3, "scheduler": scheduler, "conditions": SHOWN}
    first = sampler.generate(IDENTITY, seeds=[1, 2, 3], **options)
    assert first.shape == (3, 3, 128, 128)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert first.abs().max() <= 1
    assert torch.equal(sampler.generate(IDENTITY, seeds=[1, 2, 3], **options), first)
    other = sampler.generate(IDENTITY, seeds=[1, 2, 4], **options)
    assert torch.equal(other[:2], first[:2])
    assert not torch.equal(other[2], first[2])


def test_global_randomness_is_neither_read_nor_changed(sampler: Sampler) -> None:
    torch.manual_seed(1)
    first = sampler.generate(IDENTITY, steps=2, scheduler="ddpm")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(sampler.generate(IDENTITY, steps=2, scheduler="ddpm"), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scheduler", ["dpm", "ddpm"])
def test_a_image_does_not_depend_on_its_neighbours(scheduler: str, sampler: Sampler) -> None:
    together = sampler.generate(IDENTITY, SHOWN, steps=2, seeds=[7, 8, 9], scheduler=scheduler)
    for row in range(3):
        one = slice(row, row + 1)
        alone = sampler.generate(IDENTITY[one], rows_of(one), steps=2, seeds=[7 + row], scheduler=scheduler)
        # Matrix products of another height add up in another order.
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=2e-4)


def test_the_keys_and_values_of_people_who_are_held_are_computed_once(
    small_model: FaceModel, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    encode = small_model.encoder.forward
    monkeypatch.setattr(small_model.encoder, "forward", lambda rows: read.append(len(rows)) or encode(rows))
    holding = Sampler(small_model, people=2)

    def images(*rows: int) -> Tensor:
        return holding.generate(IDENTITY[list(rows)], seeds=rows, steps=2)

    first = images(0, 1, 0)
    assert read == [1, 1] and torch.equal(images(0, 1, 0), first) and read == [1, 1]
    torch.testing.assert_close(
        first, sampler.generate(IDENTITY[[0, 1, 0]], seeds=[0, 1, 0], steps=2), rtol=0, atol=2e-4
    )
    read.clear()
    assert not torch.equal(images(2, 2, 2), first)  # takes the place of the first
    assert read == [1] and torch.equal(images(0, 1, 0), first) and read == [1] * 3


def test_seeds_count_from_zero_by_default(sampler: Sampler) -> None:
    assert torch.equal(sampler.generate(IDENTITY, steps=1), sampler.generate(IDENTITY, steps=1, seeds=range(3)))


@pytest.mark.parametrize(
    ("guidance", "given"),
    [
        (scaled(2.5, 0.0, 2.0), {"emotion": EMOTION}),
        (scaled(2.5, 2.0, 0.0), {"landmark": LANDMARK}),
        (scaled(2.5, 0, 0), {}),
    ],
)
def test_scale_zero_is_a_condition_not_given_to_the_bit(
    guidance: Guidance, given: dict[str, Tensor], sampler: Sampler
) -> None:
    zero = sampler.generate(IDENTITY, SHOWN, guidance, steps=2)
    assert torch.equal(zero, sampler.generate(IDENTITY, given, guidance, steps=2))


def test_each_condition_changes_the_image(sampler: Sampler) -> None:
    base = sampler.generate(IDENTITY, steps=2)
    for other in (
        sampler.generate(IDENTITY.flip(0), steps=2),
        sampler.generate(IDENTITY, {"landmark": LANDMARK}, steps=2),
        sampler.generate(IDENTITY, {"emotion": EMOTION}, steps=2),
    ):
        assert ((other - base).abs().amax((1, 2, 3)) > 1e-3)[[0, 2]].all()


@pytest.mark.parametrize(
    ("scales", "landmark", "emotion", "predictions"),
    [
        ((2.5, 2.0, 2.0), True, True, 4),
        ((2.5, 2.0, 2.0), True, False, 3),
        ((2.5, 2.0, 0.0), True, True, 3),
        ((2.5, 2.0, 2.0), False, False, 2),
        ((2.0, 2.0, 0.0), True, True, 2),
        ((1.0, 0.0, 0.0), True, True, 1),
        ((0.0, 0.0, 0.0), False, False, 1),
    ],
)
def test_the_work_of_a_image(
    scales: tuple[float, float, float], landmark: bool, emotion: bool, predictions: int, sampler: Sampler
) -> None:
    """One UNet call a step with a row for each needed prediction; K and V once an image, and only of what is on."""
    steps, on = 3, {"landmark": landmark and scales[1] != 0, "emotion": emotion and scales[2] != 0}
    with watched(sampler.model) as work:
        given = {name: SHOWN[name] for name, used in (("landmark", landmark), ("emotion", emotion)) if used}
        sampler.generate(IDENTITY, given, scaled(*scales), steps)
    assert work.unet_rows == [3 * predictions] * steps
    projections = [name for name in work.calls if name.endswith((".to_k", ".to_v"))]
    assert len(projections) == 2 * 4
    assert all(work.calls[name] == 1 for name in projections)
    for condition, used in on.items():
        own = [count for name, count in work.calls.items() if name.startswith(condition)]
        assert own == ([1] * len(own) if used else [])
        assert bool(own) == used
    assert work.calls["text_model"] <= 2


def test_progress_is_told_once_a_step(sampler: Sampler) -> None:
    outcome: list[int] = []
    sampler.generate(IDENTITY[:1], steps=4, progress=lambda: outcome.append(1))
    assert len(outcome) == 4


def test_the_precision_is_read_once_however_many_steps(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, reads = type(sampler.model.unet), []
    read = unet.dtype.fget
    monkeypatch.setattr(unet, "dtype", property(lambda self: (reads.append(1), read(self))[1]))
    for steps in (2, 5):
        reads.clear()
        sampler.generate(IDENTITY[:1], steps=steps)
        assert len(reads) == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_start_at_full_noise_on_the_models_schedule(scheduler: str, small_model: FaceModel) -> None:
    solver = build_scheduler(scheduler, small_model.scale.scheduler)
    assert isinstance(solver, getattr(diffusers, SCHEDULERS[scheduler]))
    solver.set_timesteps(5)
    assert len(solver.timesteps) == 5
    assert solver.timesteps[0] == 999
    assert all(a > b for a, b in zip(solver.timesteps, solver.timesteps[1:], strict=False))
    assert solver.config.prediction_type == "v_prediction"
    reference = diffusers.DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod
    assert torch.equal(solver.alphas_cumprod, reference)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_number_of_steps_that_is_not_refused_is_made(scheduler: str) -> None:
    solver, refused = build_scheduler(scheduler, dict(zoo.MINI.scheduler)), []
    for steps in [*range(1, 130), 201, 499, 500, 995, 1000]:
        try:
            check_steps(steps, scheduler)
        except ConfigError:
            refused.append(steps)
            continue
        solver.set_timesteps(steps)
        assert len(solver.timesteps) == steps
        assert solver.timesteps[-1] >= 0
    assert refused == [61, 103, 121, 122, 201, 499, 995]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "pndm"}, "unknown scheduler 'pndm'; there are dpm, ddim"),
        ({"steps": 0}, "steps must be from 1 to 1000, not 0"),
        ({"steps": -3}, "steps must be from 1 to 1000, not -3"),
        ({"steps": 1001}, "steps must be from 1 to 1000, not 1001"),
        ({"steps": 61}, "the solvers cannot cut the 1000 timesteps into 61; take 62 steps"),
        ({"steps": 121}, "the solvers cannot cut the 1000 timesteps into 121; take 123 steps"),
        ({"speed": "fastest"}, "unknown speed 'fastest'; there are exact, interval, refresh, distilled"),
        ({"seeds": [1]}, "3 images need as many seeds, not 1"),
        ({"seeds": []}, "3 images need as many seeds, not 0"),
        ({"identity": torch.zeros(3, 512)}, "the mini scale reads embeddings of 128 numbers, not 512"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options: dict[str, object], message: str, sampler: Sampler) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler.generate(**{"identity": IDENTITY, **options})  # type: ignore[arg-type]


def test_a_base_alone_makes_images_from_identity_and_nothing_else(small_model: FaceModel, sampler: Sampler) -> None:
    base = Sampler(replace(small_model, controls=None))
    assert torch.equal(base.generate(IDENTITY, steps=1), sampler.generate(IDENTITY, steps=1))
    for condition in ({"landmark": LANDMARK}, {"emotion": EMOTION}):
        with pytest.raises(ConfigError, match="no controls"):
            base.generate(IDENTITY, condition)


def test_latents_are_unscaled_before_decoding(small_model: FaceModel) -> None:
    latents = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = small_model.autoencoder.decode(latents).sample.clamp(-1, 1)
    small_model.autoencoder.register_to_config(scaling_factor=0.5)
    try:
        assert torch.equal(decode(small_model.autoencoder, latents / 2, small_model.scale.size), expected)
    finally:
        small_model.autoencoder.register_to_config(scaling_factor=1.0)


def test_decoding_a_few_at_once_is_decoding_all_at_once(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, size = torch.randn(5, 32, 8, 8, generator=torch.Generator().manual_seed(0)), sampler.model.scale.size
    together = decode(sampler.model.autoencoder, latents, size)
    assert together.std() > 0.01
    sizes: list[int] = []
    whole = sampler.model.autoencoder.decode
    monkeypatch.setattr(sampler.model.autoencoder, "decode", lambda z: (sizes.append(len(z)), whole(z))[1])
    monkeypatch.setattr("facecrafter.sampling.sampler.PIXELS_AT_ONCE", 2 * 128 * 128)
    torch.testing.assert_close(decode(sampler.model.autoencoder, latents, size), together, rtol=0, atol=1e-5)
    monkeypatch.setattr("facecrafter.sampling.sampler.PIXELS_AT_ONCE", 1)
    decode(sampler.model.autoencoder, latents[:2], size)
    assert sizes == [2, 2, 1, 1, 1]


def test_a_model_in_bfloat16_makes_nearly_the_same_images(small_model: FaceModel, sampler: Sampler) -> None:
    half = Sampler(copy.deepcopy(small_model).to(torch.bfloat16))
    asked = {"conditions": SHOWN, "steps": 3}
    made, exact = (one.generate(IDENTITY, **asked) for one in (half, sampler))  # type: ignore[arg-type]
    assert made.dtype == torch.float32
    assert 0 < (made - exact).square().mean().sqrt() < 0.1 * exact.std()


@pytest.mark.parametrize("speeds", [("exact", "exact"), ("exact", "distilled"), ("distilled", "refresh")])
def test_threads_that_share_a_model_make_what_each_makes_alone(small_model: FaceModel, speeds: tuple[str, str]) -> None:
    student = student_of(small_model.unet, 4, "mini").requires_grad_(False)
    torch.manual_seed(0)
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.05)
    shared = Sampler(replace(small_model, distilled=student))

    def images(row: int, speed: str) -> Tensor:
        one = slice(row, row + 1)
        return shared.generate(IDENTITY[one], rows_of(one), steps=4, seeds=[row], speed=speed)

    alone = [images(row, speed) for row, speed in enumerate(speeds)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            together = list(pool.map(images, range(2), speeds))
            assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
