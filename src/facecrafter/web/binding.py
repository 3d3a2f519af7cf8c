"""Where a server listens, and what its visitors may call it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from facecrafter.errors import ConfigError
from facecrafter.web.tokens import LEAST_TOKEN

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Binding:
    """An address to listen on, and who may ask there.

    Attributes:
        host: a name or an address.
        port: 0 for any that is free.
        token: what a visitor has to know; None on this machine alone.
        names: further names under which the server is reached, say that of a proxy before it; an address is as good,
            ``https://faces.example:8443/``.
        own_access: the application checks by itself who may see what, say by a token of each visitor; then no token is
            needed here.

    Raises:
        ConfigError: another address than this machine's own without a token, a token that is easily guessed, a port
            that is none, or a name that is none.
    """

    host: str = DEFAULT_HOST
    port: int = 0
    token: str | None = field(default=None, repr=False)
    names: Sequence[str] = ()
    own_access: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"a port is a number from 0 to 65535, not {self.port}")
        if self.token is not None and len(self.token) < LEAST_TOKEN:
            raise ConfigError(f"a token of fewer than {LEAST_TOKEN} characters is easily guessed; give a longer one")
        object.__setattr__(self, "names", tuple(name_of(one) for one in self.names))
        if not self.is_loopback and self.token is None and not self.own_access:
            raise ConfigError(
                f"on {self.host} everyone in the network could use the server, and see what others made; give --token, "
                f"or listen on this machine alone with --host {DEFAULT_HOST}"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        address = _address(self.host)
        return address is not None and address.is_loopback

    def knows(self, header: str) -> bool:
        """Whether a Host header names this server.

        A page of a stranger's can make its own name point to this machine (DNS rebinding), and would then be of the
        same origin. Its Host header still has the stranger's name. An address cannot be made to point elsewhere, so a
        server that others reach takes any.
        """
        name = host_of(header)
        if name in LOOPBACK_NAMES or name == self.host.lower() or name in self.names:
            return True
        return not self.is_loopback and (_address(name) is not None or name == socket.gethostname().lower())

    def url(self, port: int, path: str = "/") -> str:
        """How a visitor opens it, the token included."""
        address = _address(self.host)
        host = DEFAULT_HOST if address is not None and address.is_unspecified else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}{path}" + (f"?token={quote(self.token, safe='')}" if self.token else "")

    def listen(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            ConfigError: the address is not this machine's, or another program has the port.
        """
        try:
            return socket.create_server(
                (self.host, self.port), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET, backlog=256
            )
        except (OSError, UnicodeError) as error:
            # Python repeats the address in its reason.
            reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
            raise ConfigError(
                f"cannot listen on {self.host} port {self.port} ({reason.lower()}); choose another --port or --host"
            ) from None


def host_of(header: str) -> str:
    """The name in a Host header, without its port and brackets, in small letters."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def name_of(text: str) -> str:
    """The name of a host as browsers send it, from a name or an address of a page's root, with or without a port.

    Raises:
        ConfigError: it is neither.
    """
    given = text.strip()
    if _address(given) is not None:  # one of version 6 may come without brackets
        return given.lower()
    try:
        parts = urlsplit(given if "://" in given else f"//{given}")
        name = (parts.hostname or "").rstrip(".").encode("idna").decode()
        is_root = parts.port != 0 and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    except ValueError:
        name, is_root = "", False
    if not is_root or re.fullmatch(r"[a-z0-9._:-]+", name) is None:
        raise ConfigError(f"'{text}' is no name of a host; give it as a browser's Host header has it, faces.example")
    return name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
