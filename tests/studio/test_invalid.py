from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from facecrafter.studio.schema import WANTED, ImageRequest
from facecrafter.web.invalid import in_words

ID = "a" * 64


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"emotoin": "sad"}, "there is no 'emotoin'; did you mean 'emotion'?"),
        ({"Emotion": "sad"}, "there is no 'Emotion'; did you mean 'emotion'?"),
        ({"pose": {"yow": 3}}, "there is no 'yow' in pose; did you mean 'yaw'?"),
        ({"identity": [{"base64": "x", "nam": "x"}]}, "there is no 'nam' in identity.0; did you mean 'name'?"),
        ({"identity": "me.jpg"}, f"identity wants {WANTED['identity']}"),
        ({"identity": ["me.jpg"]}, f"identity wants {WANTED['identity']}"),
        ({"identity": [ID, 3]}, f"identity wants {WANTED['identity']}"),
        ({"identity": [ID] * 13}, "identity has 12 entries at most"),
        ({"identity": [{"base64": ""}]}, "identity.0.base64 is empty; give a value"),
        ({"target": "me.jpg"}, f"target wants {WANTED['target']}"),
        ({"target": {"name": "me.jpg"}}, "target.base64 is missing; give it"),
        ({"face": 0}, f"face wants {WANTED['face']}"),
        ({"face": [-1, 2]}, f"face wants {WANTED['face']}"),
        ({"emotion": 3}, f"emotion wants {WANTED['emotion']}"),
        ({"emotion": {"sad": "much"}}, "emotion.sad wants a number"),
        ({"expression": {"InlinePhoto": None}}, "expression.InlinePhoto wants a number"),
        ({"expression": {"a" * 41: 0}}, "a name in expression has 40 characters at most"),
        ({"pose": 3}, "pose wants an object, {...}"),
        ({"start": "x"}, "start wants 'neutral', 'keep' or 'relative'"),
        ({"n": 1.5}, "n wants a whole number"),
        ({"valence": float("nan")}, "valence wants a finite number"),
        ({"seed": 2**60}, "seed is 9007199254740983 at most"),
        ({"strict": "maybe"}, "strict wants true or false"),
        ({"sweep": "yaw=1"}, "sweep wants a list, [...]"),
        ({"sweep": [3]}, "sweep.0 wants text"),
        ({"preset": "a" * 81}, "preset has 80 characters at most"),
    ],
)
def test_what_the_validator_finds_is_a_sentence(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ImageRequest.model_validate(wish)
    assert in_words(error.value.errors(), ImageRequest, WANTED) == message


def test_a_long_unknown_name_is_cut() -> None:
    with pytest.raises(ValidationError) as error:
        ImageRequest.model_validate({"x" * 10**6: 1})
    assert len(in_words(error.value.errors(), ImageRequest)) < 500
