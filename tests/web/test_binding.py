from __future__ import annotations

import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from facecrafter.errors import ConfigError
from facecrafter.web.binding import Binding, host_of

TOKEN = "a-token-that-is-long-enough"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert Binding(host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_another_address_needs_a_token_and_says_why(host: str) -> None:
    with pytest.raises(ConfigError, match="everyone in the network could use the server"):
        Binding(host)
    assert not Binding(host, token=TOKEN).is_loopback
    assert not Binding(host, own_access=True).is_loopback


@pytest.mark.parametrize(("values", "message"), [({"token": "short"}, "easily guessed"), ({"port": 70000}, "65535")])
def test_bad_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Binding(**values)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_of(header) == name


@pytest.mark.parametrize(
    ("binding", "header", "known"),
    [
        (Binding(), "localhost:8000", True),
        (Binding(), "[::1]:8000", True),
        (Binding(), "evil.example:8000", False),
        (Binding(), "192.168.1.5", False),
        (Binding(), "localhost.evil.example", False),
        (Binding(), "", False),
        (Binding(names=["faces.example"]), "faces.example", True),
        (Binding("0.0.0.0", token=TOKEN), "192.168.1.5:80", True),
        (Binding("0.0.0.0", token=TOKEN), socket.gethostname(), True),
        (Binding("0.0.0.0", token=TOKEN), "evil.example", False),
        (Binding("faces.example", token=TOKEN), "FACES.example:80", True),
    ],
)
def test_only_the_servers_own_names_are_known(binding: Binding, header: str, known: bool) -> None:
    assert binding.knows(header) is known


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("faces.example", "faces.example"),
        ("https://faces.example", "faces.example"),
        ("https://Faces.Example:8443/", "faces.example"),
        (" faces.example:8443 ", "faces.example"),
        ("faces.example.", "faces.example"),
        ("https://bücher.example", "xn--bcher-kva.example"),
        ("192.168.1.5:80", "192.168.1.5"),
        ("FE80::1", "fe80::1"),
        ("http://[fe80::1]:80", "fe80::1"),
    ],
)
def test_a_further_name_may_have_a_scheme_and_a_port(given: str, name: str) -> None:
    binding = Binding(names=[given])
    assert binding.names == (name,)
    assert binding.knows(f"[{name}]:8443" if ":" in name else f"{name}:8443")
    assert not binding.knows("other.example")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  ",
        "https://",
        "https://faces.example/studio",
        "faces.example/?a=1",
        "faces.example:port",
        "a..b",
        "[::1",
        "*.example",
        "two words",
        "ann@faces.example",
        "faces.example:70000",
    ],
)
def test_what_is_no_name_is_refused_at_the_start(given: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a host; give it as"):
        Binding(names=["faces.example", given])


def test_the_address_to_open() -> None:
    assert Binding().url(80) == "http://127.0.0.1:80/"
    assert Binding("::1").url(80, "/a") == "http://[::1]:80/a"
    assert Binding("0.0.0.0", token=TOKEN).url(80) == f"http://127.0.0.1:80/?token={TOKEN}"
    odd = "a+token&that#is?in=part%41"
    query = urlsplit(Binding("0.0.0.0", token=odd).url(80)).query
    assert parse_qs(query) == {"token": [odd]}
    assert TOKEN not in repr(Binding(token=TOKEN))


def test_a_port_that_is_taken_is_named() -> None:
    with Binding().listen() as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} \([^()]+\); choose another --port"):
            Binding(port=port).listen()
    with pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.7"):
        Binding("203.0.113.7", token=TOKEN).listen()
