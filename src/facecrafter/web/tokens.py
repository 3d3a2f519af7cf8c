"""Tokens: long random words that whoever knows them may use a server, or a part of it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from facecrafter.errors import OutputError

LEAST_TOKEN = 16  # characters


def new_token() -> str:
    """A token that nobody guesses, 43 characters that need no quoting in an address."""
    return secrets.token_urlsafe(32)


def matches(given: str | None, token: str) -> bool:
    """Whether a visitor's token is the right one; how long this takes does not tell how much of it is."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def fingerprint(token: str, purpose: str) -> str:
    """64 hexadecimal digits that prove a token without telling it: for a cookie, or to keep in a database."""
    return hmac.new(token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def bearer(header: str | None) -> str | None:
    """The token in an Authorization header; None where it has none."""
    kind, _, token = (header or "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def kept_token(path: Path) -> str:
    """The token in a file that only its owner reads, say an administrator's; one is made where there is none.

    Raises:
        OutputError: the file cannot be written or read, or holds no token.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            token = path.read_text(encoding="ascii").strip()
        else:
            token = new_token()
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(token + "\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise OutputError(f"the token {path} cannot be used ({reason.lower()}); remove the file") from None
    if len(token) < LEAST_TOKEN:
        raise OutputError(f"{path} holds no token; remove the file, and a new one is made")
    return token
