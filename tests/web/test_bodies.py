"""The bodies of all requests together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI, Request

from facecrafter.web.bodies import RETRY_SECONDS
from facecrafter.web.server import application

Result = TypeVar("Result")
MOST, TOGETHER = 1000, 1500
SECONDS = 60


class Slow:
    """An application that reads a body and answers when it may."""

    def __init__(self) -> None:
        self.app: FastAPI = application("test", MOST, TOGETHER)
        self.read, self.go = asyncio.Semaphore(0), asyncio.Event()
        self.app.post("/upload")(self.upload)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1")

    async def upload(self, request: Request) -> int:
        body = await request.body()
        self.read.release()
        await self.go.wait()
        return len(body)

    def send(self, content: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.post("/upload", content=content))

    async def reads(self, count: int = 1) -> None:
        """Wait until bodies have been read."""
        for _ in range(count):
            await asyncio.wait_for(self.read.acquire(), SECONDS)


def run(test: Coroutine[Any, Any, Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:  # browser tests leave a running loop in this thread
        return pool.submit(asyncio.run, test).result()


async def pieces(count: int, drawn: list[int]) -> AsyncIterator[bytes]:
    for number in range(count):
        drawn.append(number)
        yield b"x" * 100


def refused(answer: httpx.Response) -> bool:
    found = (answer.status_code, answer.headers.get("retry-after"), answer.json()["error"])
    return found == (503, str(RETRY_SECONDS), "busy")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_body_is_refused_while_others_take_up_the_place(in_pieces: bool) -> None:
    drawn: list[int] = []

    async def test() -> tuple[bool, list[int]]:
        slow = Slow()
        first = slow.send(b"x" * 900)
        await slow.reads()
        # 600 bytes are left: seven pieces are too many, and six are not.
        large = await slow.send(pieces(7, drawn) if in_pieces else b"x" * 700)
        small = slow.send(pieces(6, []) if in_pieces else b"x" * 600)
        await slow.reads()
        slow.go.set()
        done = [first, small, slow.send(b"x" * 900)]  # and there is place again
        return refused(large), [(await one).json() for one in done]

    assert run(test()) == (True, [900, 600, 900])
    assert drawn == (list(range(7)) if in_pieces else [])  # a visitor has sent all when the answer comes


def test_what_is_refused_or_fails_gives_its_place_back() -> None:
    async def test() -> list[int]:
        slow = Slow()
        slow.go.set()
        answers = [await slow.send(b"x" * size) for size in (1001, 900)]
        answers += [await slow.client.post("/nowhere", content=b"x" * 1000) for _ in range(3)]
        answers += [await slow.send(pieces(11, [])), await slow.send(pieces(9, [])), await slow.send(b"x" * 1000)]
        return [answer.status_code for answer in answers]

    assert run(test()) == [413, 200, 404, 404, 404, 413, 200, 200]


def test_requests_without_a_body_are_answered_meanwhile() -> None:
    async def test() -> int:
        slow = Slow()
        waiting = [slow.send(b"x" * 900), slow.send(b"x" * 600)]
        await slow.reads(2)
        answer = await slow.client.get("/openapi.json")
        slow.go.set()
        await asyncio.gather(*waiting)
        return answer.status_code

    assert run(test()) == 200
