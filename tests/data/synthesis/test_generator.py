"""The generator computes what the published runtime does, and a plain loop of its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facecrafter import weights
from facecrafter.data.synthesis import generator
from facecrafter.data.synthesis.generator import (
    STYLES,
    FaceGenerator,
    Operation,
    Synthesis,
    inverse_haar,
    read_operations,
)
from facecrafter.errors import WeightsError

needs_generator = pytest.mark.skipif(
    weights.find("face_generator_synthesis") is None,
    reason="needs the face generator: facecrafter weights fetch face_generator_synthesis",
)


@pytest.fixture(scope="module")
def published() -> FaceGenerator:
    return FaceGenerator()


def random_operations() -> list[Operation]:
    """A synthesis network of the published layout with four channels, in the order of the published file."""
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    operations = []
    for number in reversed(range(STYLES)):
        features = number % 3 == 1 and number < STYLES - 1
        width = 16 if features else 4
        operations += [Operation("MatMul", [array(width, 512) / 20]), Operation("Add", [array(1, width)])]
        if not features:
            operations.append(Operation("Multiply", [np.full((1, 1, 1, 1), 0.5, np.float32)]))
    operations += [Operation("Broadcast", [np.ones(1, np.float32)]), Operation("Broadcast", [array(1, 4, 4, 4)])]
    channels = [(4, 16)] + [(4, 4), (4, 16)] * generator.DOUBLINGS
    channels[-1] = (4, 4)
    for number, (inputs, outputs) in enumerate(channels):
        side = 4 * 2 ** ((number + 1) // 2)
        if number:
            operations.append(Operation("GroupConvolution", [array(inputs, 1, 1, 3, 3) / 3]))
        kernel = array(outputs, inputs, 1, 1) if number else array(outputs, inputs, 3, 3)
        operations.append(Operation("Convolution", [kernel / 4]))
        operations += [Operation("Add", [array(1, 1, side, side)]), Operation("Add", [array(1, outputs, 1, 1)])]
    return [*operations, Operation("Convolution", [array(12, 4, 1, 1)]), Operation("Add", [array(1, 12, 1, 1)])]


def plain_haar(x: Tensor) -> Tensor:
    """Each place of four bands to its four pixels, one after another."""
    batch, channels, height, width = x.shape
    count = channels // 4
    out = torch.zeros(batch, count, 2 * height, 2 * width)
    for channel in range(count):
        low, vertical, horizontal, both = x[:, [channel, *(count + 3 * channel + band for band in range(3))]].unbind(1)
        for row, up in enumerate((1, -1)):
            for column, left in enumerate((1, -1)):
                pixel = (low + up * vertical + left * horizontal + up * left * both) / 2
                out[:, channel, row::2, column::2] = pixel
    return out


def test_the_inverse_haar_transform_is_a_plain_loop_of_it() -> None:
    bands = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inverse_haar(bands), plain_haar(bands))


@torch.no_grad()
def test_the_synthesis_is_a_plain_loop_of_its_layers() -> None:
    operations = random_operations()
    network = Synthesis(operations)
    w = torch.randn(2, STYLES, 512, generator=torch.Generator().manual_seed(1))
    dense = [one for one in operations if one.kind == "MatMul"][::-1]
    biases = [one for one in operations if one.kind == "Add"][:STYLES][::-1]

    def style(number: int) -> Tensor:
        weight, bias = torch.from_numpy(dense[number].constants[0]), torch.from_numpy(biases[number].constants[0])
        factor = 1.0 if number % 3 == 1 and number < STYLES - 1 else 0.5
        return ((w[:, number] @ weight.T + bias) * factor)[:, :, None, None]

    kernels = [one.constants[0] for one in operations if one.kind.endswith("Convolution")]
    added = [one.constants[0] for one in operations if one.kind == "Add"][STYLES:]
    (constant,) = (one.constants[0] for one in operations if one.kind == "Broadcast" and one.constants[0].ndim == 4)
    x = torch.from_numpy(constant).expand(2, -1, -1, -1)
    x = F.conv2d(x * style(0), torch.from_numpy(kernels.pop(0)), padding=1)
    x = F.leaky_relu(x + torch.from_numpy(added.pop(0)) + torch.from_numpy(added.pop(0)), 0.2)
    for number in range(1, STYLES - 1):
        if number % 3 == 1:
            x = plain_haar(x * style(number))
            continue
        depthwise, pointwise = (torch.from_numpy(kernels.pop(0)) for _ in range(2))
        x = F.conv2d(F.conv2d(x * style(number), depthwise[:, 0], padding=1, groups=4), pointwise)
        x = F.leaky_relu(x + torch.from_numpy(added.pop(0)) + torch.from_numpy(added.pop(0)), 0.2)
    expected = F.conv2d(x * style(STYLES - 1), torch.from_numpy(kernels.pop(0))) + torch.from_numpy(added.pop(0))
    assert not kernels
    assert not added
    torch.testing.assert_close(network(w), plain_haar(expected), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(network(w, 512), expected[:, :3] / 2, rtol=1e-4, atol=1e-3)
    # One style for all layers is that style in each.
    torch.testing.assert_close(network(w[:, 0], 512), network(w[:, :1].expand(-1, STYLES, -1), 512))


# What the published runtime gives for the noise of seed 3 in single precision: every 64th number of w, and every 250th
# pixel of each channel from the 100th on. By default it computes in 16 bits, and differs from this by up to 0.2.
STYLE = [-0.11574, -0.12293, -0.24738, 0.7573, -0.13718, 0.0371, -0.07877, 0.17245]
PIXELS = [
    [
        [0.5768, -0.6514, 0.0604, 0.565],
        [0.5527, 0.4349, 0.5921, 0.5179],
        [0.5023, 0.4978, 0.2748, 0.5107],
        [0.4795, -0.0675, 0.4179, 0.4607],
    ],
    [
        [0.5779, -0.6614, 0.0463, 0.56],
        [0.5481, 0.2426, 0.4229, 0.5119],
        [0.4843, 0.2993, -0.06, 0.4992],
        [0.4681, -0.216, 0.2099, 0.4463],
    ],
    [
        [0.5029, -0.6547, -0.0252, 0.476],
        [0.477, 0.0866, 0.3, 0.4307],
        [0.3635, 0.2211, -0.1974, 0.4143],
        [0.3743, -0.3626, 0.0753, 0.3591],
    ],
]


@needs_generator
def test_an_image_has_the_numbers_of_the_published_runtime(published: FaceGenerator) -> None:
    style = published.mapping(torch.randn(1, 512, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(style[0, ::64], torch.tensor(STYLE), rtol=0, atol=2e-5)
    image = published.synthesis(style, 1024)[0]
    torch.testing.assert_close(image[:, 100::250, 100::250], torch.tensor(PIXELS), rtol=0, atol=2e-4)
    half = published.synthesis(style, 512)[0]
    torch.testing.assert_close(
        half, image.unflatten(1, (512, 2)).unflatten(3, (512, 2)).mean((2, 4)), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("size", [512, 1024])
@needs_generator
def test_an_image_is_the_published_runtimes(published: FaceGenerator, size: int) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino to compare with: pip install openvino")
    core = openvino.Core()
    # The runtime rounds to 16 bits unless it is asked for 32.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    mapping, synthesis = (
        core.compile_model(weights.locate(f"face_generator_{part}_graph"), "CPU", exact)
        for part in ("mapping", "synthesis")
    )
    noise = torch.randn(1, 512, generator=torch.Generator().manual_seed(3))
    style = published.mapping(noise)
    expected_style = mapping([noise.numpy()])[0]
    assert np.abs(style.numpy() - expected_style).max() < 1e-4
    expected = synthesis([expected_style])[0]
    if size == 512:
        expected = expected.reshape(1, 3, 512, 2, 512, 2).mean((3, 5))
    assert expected.std() > 0.1
    assert np.abs(published.synthesis(style, size).numpy() - expected).max() < 1e-3


@needs_generator
def test_a_person_depends_on_their_own_seed(published: FaceGenerator) -> None:
    people = published.people([5, 9], 0.7)
    torch.testing.assert_close(people[1:], published.people([9], 0.7), rtol=0, atol=1e-5)
    assert torch.equal(published.people([5], 0.0)[0], published.average)
    images = published.images(people)
    assert images.shape == (2, 512, 512, 3)
    assert images.dtype == torch.uint8
    alone = published.images(people[1:])
    assert (images[1].int() - alone[0].int()).abs().max() <= 1


GRAPH = """<net version="10"><layers>
<layer id="0" type="Const"><data element_type="f32" shape="1, 2" offset="0" size="8"/></layer>
<layer id="1" type="Parameter"/><layer id="2" type="Add"/></layers>
<edges><edge from-layer="1" to-layer="2"/><edge from-layer="0" to-layer="2"/></edges></net>"""


def test_a_graph_is_read_with_its_constants(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(GRAPH)
    (tmp_path / "a.bin").write_bytes(np.array([1.5, -2], np.float32).tobytes())
    parameter, add = read_operations(tmp_path / "a.xml", tmp_path / "a.bin")
    assert (parameter.kind, parameter.constants) == ("Parameter", [])
    assert add.kind == "Add"
    assert add.constants[0].tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize(
    ("graph", "numbers", "message"),
    [
        (None, b"", "a.xml cannot be read"),
        (GRAPH, None, "a.bin cannot be read"),
        ("<net", b"", "is not the graph of a network"),
        (GRAPH, b"1234", "is not the graph of a network"),
        (GRAPH.replace('"f32"', '"u1"'), bytes(8), "is not the graph of a network"),
        (GRAPH.replace("1, 2", "1, 3"), bytes(8), "is not the graph of a network"),
    ],
)
def test_a_damaged_graph_is_refused(graph: str | None, numbers: bytes | None, message: str, tmp_path: Path) -> None:
    if graph is not None:
        (tmp_path / "a.xml").write_text(graph)
    if numbers is not None:
        (tmp_path / "a.bin").write_bytes(numbers)
    with pytest.raises(WeightsError, match=message):
        read_operations(tmp_path / "a.xml", tmp_path / "a.bin")


@pytest.mark.parametrize("network", [generator.Mapping, Synthesis])
def test_the_graph_of_another_network_is_refused(network: type) -> None:
    with pytest.raises(WeightsError, match="fetch the generator again"):
        network([Operation("MatMul", [np.ones((2, 2), np.float32)]), Operation("Add", [np.ones(2, np.float32)])])
