from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from facecrafter.errors import OutputError
from facecrafter.web.rates import Rate, RateLimit
from facecrafter.web.tokens import bearer, fingerprint, kept_token, matches, new_token


def test_tokens_differ_and_match_themselves() -> None:
    one, two = new_token(), new_token()
    assert len(one) == 43
    assert matches(one, one)
    assert not matches(one, two)
    assert not matches(None, one)
    assert not matches("ä" + one, one)
    assert fingerprint(one, "cookie") != fingerprint(one, "name")
    assert one not in fingerprint(one, "cookie")


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer", None), ("", None), (None, None)],
)
def test_a_bearer_token(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


def test_a_kept_token_stays_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "admin.token"
    token = kept_token(path)
    assert kept_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(OutputError, match="remove the file"):
        kept_token(tmp_path / "token")


def test_a_rate_limit_is_each_visitors_own_and_fills_again() -> None:
    now = 0.0
    limit = RateLimit(Rate(burst=2, per_second=0.5), lambda: now)
    assert [limit.wait("ann"), limit.wait("ann"), limit.wait("ann"), limit.wait("bob")] == [0, 0, 2.0, 0]
    now = 1.0
    assert limit.wait("ann") == 1.0
    now = 2.0
    assert limit.wait("ann") == 0
    now = 1000.0
    assert [limit.wait("ann") for _ in range(3)] == [0, 0, 2.0]


def test_two_threads_share_a_visitors_rate() -> None:
    meeting = threading.Barrier(2)

    class Buckets(OrderedDict[str, tuple[float, float]]):
        """Taking from it waits for the other thread, if that can come."""

        def pop(self, *arguments: Any) -> Any:
            found = super().pop(*arguments)
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.2)
            return found

    limit = RateLimit(Rate(burst=2, per_second=0.5), lambda: 0.0)
    limit._buckets = Buckets({"ann": (1.0, 0.0)})
    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(limit.wait, ["ann", "ann"])) == [0, 2.0]
