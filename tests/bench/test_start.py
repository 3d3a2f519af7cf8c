"""What the interpreter says of imports is read as it is meant."""

from __future__ import annotations

import pytest

from facecrafter.bench import start
from facecrafter.bench.measure import Spread
from facecrafter.errors import FaceCrafterError

ACCOUNT = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   encodings
import time:    100000 |     300000 |       torch._C
import time:    200000 |     500000 |     torch
import time:     10000 |     400000 |     scipy.stats
import time:    100000 |    1000000 |   diffusers.models
import time:    250000 |     250000 |   diffusers.late
something that a package printed
import time:       500 |    1250500 | facecrafter.model
"""


def test_a_packages_imports_are_its_own_less_the_other_heavy_ones() -> None:
    seconds = start.imports_of(ACCOUNT)
    assert seconds == {
        "torch": pytest.approx(0.5),  # its own submodule is part of it
        "scipy": pytest.approx(0.4),
        "diffusers": pytest.approx(0.1 + 0.25),
    }


def test_a_start_is_timed_and_a_failure_is_told_in_one_sentence() -> None:
    seconds, said = start._run(["-c", "import sys; sys.stderr.write('hello')"])
    assert seconds > 0 and said == "hello"
    with pytest.raises(FaceCrafterError, match="failed: NameError: name 'nothing'"):
        start._run(["-c", "nothing"])


@pytest.mark.parametrize("arguments", [["-c", "import facecrafter"], ["-m", "facecrafter", "--help"]])
def test_the_package_and_its_help_wait_for_no_heavy_import(arguments: list[str]) -> None:
    assert start._imports(arguments) == {}


def test_the_result_in_words() -> None:
    told = start.lines([start.Start("first image", Spread(5.0, 4.5, 6.0), {"torch": 1.25, "cv2": 0.01})])
    assert told == ["first image: 5 [4.5, 6] s (imports: torch 1.2)"]
