"""The sampling benchmark counts what was asked of it, and compares in turn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from facecrafter.bench import sampling as bench
from facecrafter.bench.measure import Spread, held, peak
from facecrafter.cli import app
from facecrafter.errors import ConfigError
from facecrafter.models import scales
from facecrafter.models.autoencoder import FaceAutoencoder
from facecrafter.models.deep_autoencoder import DeepAutoencoder
from facecrafter.models.scales import Scale
from facecrafter.sampling.plans import SPEEDS
from facecrafter.training.operations import matmul_limit


@pytest.fixture(autouse=True)
def small(small_scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)


@pytest.fixture(scope="module")
def counted(small_scale: Scale) -> dict[str, bench.Cost]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "mini", small_scale)
        costs, where = bench.sampling("mini", 2, 5, device_name="meta")
    assert where == {} and all(cost.seconds is None for cost in costs)
    return {cost.name: cost for cost in costs}


def test_predictions_of_a_image_are_those_of_each_way(counted: dict[str, bench.Cost]) -> None:
    baselines = {bench.BASE: 10, "Arc2Face": 10, "Arc2Face + two IP-Adapters": 10}
    ours = {"exact": 20, "interval": 3 + 8, "refresh": 3 + 8, "distilled": 5}
    assert {name: cost.predictions for name, cost in counted.items()} == {**baselines, **ours}
    assert list(ours) == list(SPEEDS)


def test_what_is_shared_is_counted_once(counted: dict[str, bench.Cost], small_scale: Scale) -> None:
    networks = bench.Networks(small_scale, 1, torch.device("meta"), torch.float32)
    rows = torch.zeros(1, 32, 8, 8, device="meta"), 1, torch.zeros(1, 8, 128, device="meta")
    seen: list[int] = []
    attended = networks.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q
    with FlopCounterMode(display=False) as counter:
        hook = attended.register_forward_hook(lambda *_: seen.append(counter.get_total_flops()))
        networks.unet(*rows)
        hook.remove()
    before, whole = seen[0] / 1e12, counter.get_total_flops() / 1e12
    # Per step: exact makes four predictions, distilled one with a student's updates; what precedes the first
    # cross-attention is made once in either. Controls and base cross-attend a little more than the base alone.
    extra = counted["exact"].teraflops - counted["interval"].teraflops
    assert extra == pytest.approx(3 * 3 * (whole - before), rel=0.05)
    plain, control = counted["Arc2Face"].teraflops, counted[bench.BASE].teraflops
    with FlopCounterMode(display=False) as counter:
        networks.controlnet(*rows, networks.drawn[:1], return_dict=False)
    # Of an image as large as the model's, in each of two predictions of five steps.
    assert networks.drawn.shape[-1] == small_scale.size
    assert control - plain == pytest.approx(5 * 2 * counter.get_total_flops() / 1e12, rel=0.01)


def test_mini_has_the_size_of_its_shipped_weights(
    small_scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.checkpoint, "ASSETS", tmp_path)
    (tmp_path / "mini").mkdir()
    for autoencoder, size, channels in ((FaceAutoencoder(), small_scale.size, 32), (DeepAutoencoder(), 256, 64)):
        bench.checkpoint.save_part(autoencoder, tmp_path / "mini" / "autoencoder.safetensors", "autoencoder", "mini")
        networks = bench.Networks(small_scale, 1, torch.device("meta"), torch.float32)
        assert (networks.scale.size, networks.unet.config.in_channels) == (size, channels)


def test_candidates_are_timed_in_turn_and_as_ratios() -> None:
    costs, where = bench.sampling("mini", 2, 2, rounds=2, only=["exact", "Arc2Face"])
    assert [cost.name for cost in costs] == [bench.BASE, "Arc2Face", "exact"]
    for cost in costs:
        assert cost.seconds is not None and cost.ratio is not None and cost.peak_mib is not None
        assert 0 < cost.seconds.low <= cost.seconds.median <= cost.seconds.high
        assert cost.peak_mib > 7.1e6 * 4 / 2**20  # the autoencoder alone
    assert costs[0].ratio == Spread(1, 1, 1)
    assert sum(where["shares"].values()) == pytest.approx(1)
    assert where["shares"]["convolutions"] > 0 and where["limit"] > 0 and where["reached"] > 0
    told = bench.lines(2, costs, where)
    assert told[0] == "batch 2" and len(told) == 6 and "of Arc2Face + ControlNet" in told[3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_candidates_are_timed_on_a_gpu() -> None:
    costs, where = bench.sampling("mini", 2, 2, rounds=2, device_name="cuda", bfloat16=True)
    assert [cost.name for cost in costs][-len(SPEEDS) :] == list(SPEEDS)
    for cost in costs:
        assert cost.seconds is not None and cost.ratio is not None and cost.peak_mib is not None
        assert cost.seconds.low > 0 and cost.peak_mib > 7.1e6 * 2 / 2**20
    assert sum(where["shares"].values()) == pytest.approx(1)
    assert where["shares"]["convolutions"] > 0.05


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"only": ["magic"]}, "no candidate 'magic'.*exact, interval"), ({"device_name": "toaster"}, "'toaster'")],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bench.sampling("mini", **settings)  # type: ignore[arg-type]


def test_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["bench", "sampling", "--device", "meta", "--steps", "3", "--batch", "1", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "exact: 12 predictions" in done.stdout
    told = json.loads(out.read_text())
    assert [batch["batch"] for batch in told["batches"]] == [1]
    assert told["batches"][0]["candidates"][0]["name"] == bench.BASE and "commit" in told["environment"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "bench.json" in again.stderr


def test_an_accelerators_kernels_are_not_counted_beside_the_operations_that_started_them() -> None:
    def event(key: str, kind: DeviceType, on_cpu: float, on_device: float) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=kind, self_cpu_time_total=on_cpu, self_device_time_total=on_device)

    events = [
        event("aten::mm", DeviceType.CPU, 5.0, 30.0),
        event("sm90_xmma_gemm_bf16", DeviceType.CUDA, 0.0, 30.0),
        event("aten::convolution", DeviceType.CPU, 15.0, 10.0),
        event("void some_kernel<float>", DeviceType.CUDA, 0.0, 10.0),
        event("cudaLaunchKernel", DeviceType.CPU, 20.0, 0.0),
    ]
    device, cpu = bench.shares(events, True), bench.shares(events, False)
    assert (device["matrix products"], device["convolutions"], device["other"]) == (0.75, 0.25, 0.0)
    assert (cpu["matrix products"], cpu["convolutions"], cpu["other"]) == (0.125, 0.375, 0.5)


def test_a_peak_is_what_was_held_at_once() -> None:
    cpu = torch.device("cpu")
    before = held(cpu)
    with peak(cpu) as most:
        block = torch.zeros(32 * 2**20)  # 128 MiB
        block.add_(1)
    del block
    assert 100 < most[0] - before < 200


def test_the_limit_is_a_plausible_number_of_operations() -> None:
    assert 1e9 < matmul_limit(torch.device("cpu"), torch.float32, 1) < 1e15


def test_weights_that_two_parts_share_are_held_once() -> None:
    layer = nn.Linear(512, 512, bias=False)
    one = bench.Candidate("one", [layer, nn.Sequential(layer)], lambda: None, lambda steps: torch.zeros(1))
    assert bench._weights(one) == 1.0
