"""Blur and covered rectangles, against loops."""

from __future__ import annotations

import pytest
import torch

from facecrafter.training.augmentation import blurred, rectangles


def test_a_blur_takes_away_what_is_finer_than_four_pixels_and_nothing_else() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1  # averages to 0 over any four by four
    flat = torch.full((16, 16), 0.3)
    images = torch.stack([board, flat])[:, None].expand(2, 3, 16, 16)
    torch.testing.assert_close(blurred(images, torch.ones(2, 1, 1, 1))[0], torch.zeros(3, 16, 16))
    torch.testing.assert_close(blurred(images, torch.ones(2, 1, 1, 1))[1], images[1])
    torch.testing.assert_close(blurred(images, torch.tensor([0.25, 0.5]).view(2, 1, 1, 1))[0], 0.75 * images[0])
    assert torch.equal(blurred(images, torch.zeros(2, 1, 1, 1)), images)
    assert blurred(torch.zeros(1, 3, 150, 150), torch.ones(1, 1, 1, 1)).shape == (1, 3, 150, 150)


@pytest.mark.parametrize("side", [10, 44])
def test_a_rectangle_is_where_its_numbers_say_and_inside_the_image(side: int) -> None:
    chance = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    chance[0], chance[1] = torch.zeros(4), torch.full((4,), 1 - 1e-6)
    got = rectangles(chance, side, 0.2, 0.5)
    assert got.shape == (50, 1, side, side)
    for row, (a, b, c, d) in enumerate(chance.tolist()):
        height, width = 0.2 + 0.3 * a, 0.2 + 0.3 * b
        top, left = c * (1 - height), d * (1 - width)
        inside = [
            [top < (i + 0.5) / side < top + height and left < (j + 0.5) / side < left + width for j in range(side)]
            for i in range(side)
        ]
        assert got[row, 0].tolist() == inside
    assert got[0, 0, 0, 0]
    assert got[1, 0, -1, -1]
