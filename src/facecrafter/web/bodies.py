"""How many bytes the bodies of all requests may have together: each is in memory from its first byte to the answer."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_TOGETHER = 256 * 2**20  # reading a form or JSON makes up to two more copies of its parts
RETRY_SECONDS = 2
FULL = "too much is sent to the server at once; send it again in a moment"


class Bodies:
    """Refuses a request's body with 503 and Retry-After where those of other requests leave no place for it.

    A body that gives its length takes its place before it is read. One that comes in pieces takes it piece by piece.

    Args:
        app: what it stands before; it has to answer Starlette's HTTPException.
        most_bytes: of all bodies together.
    """

    def __init__(self, app: ASGIApp, most_bytes: int = MOST_TOGETHER) -> None:
        self.app, self._free = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, with a body that is counted until the answer is sent."""
        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        declared = int(length) if length.isdecimal() else 0
        taken = read = 0
        message: Message = {"type": "http.request", "more_body": True}

        def fits(size: int) -> bool:
            """Take place for a body of a size, where there is so much."""
            nonlocal taken
            more = max(0, size - taken)
            if more > self._free:
                return False
            taken += more
            self._free -= more
            return True

        async def counted() -> Message:
            nonlocal message, read
            if fits(declared):
                message = await receive()
                read += len(message.get("body", b""))
                if fits(read):
                    return message
            while message.get("more_body"):  # a visitor that still sends does not read the answer
                message = await receive()
            raise HTTPException(503, FULL, {"Retry-After": str(RETRY_SECONDS)})

        try:
            await self.app(scope, counted, send)
        finally:
            self._free += taken
