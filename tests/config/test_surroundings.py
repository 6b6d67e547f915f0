# SPDX-License-Identifier: MIT
"""What the machine says where the operator is silent."""

import socket
from pathlib import Path

import pytest

from smarthost.config import Surroundings, default_state_dir


@pytest.mark.parametrize(
    ("environ", "is_root", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, True, "/var/lib/one"),
        ({"STATE_DIRECTORY": "/var/lib/one", "XDG_STATE_HOME": "/x"}, False, "/var/lib/one"),
        ({}, True, "/var/lib/smarthost"),
        ({"XDG_STATE_HOME": "/x"}, True, "/var/lib/smarthost"),
        ({"XDG_STATE_HOME": "/x"}, False, "/x/smarthost"),
    ],
)
def test_the_state_directory_is_chosen_in_order(environ: dict[str, str], is_root: bool, expected: str) -> None:
    """systemd's word, then root's place, then the user's own."""
    assert default_state_dir(environ, is_root=is_root) == Path(expected)


@pytest.mark.parametrize("environ", [{}, {"XDG_STATE_HOME": "relative"}, {"XDG_STATE_HOME": ""}])
def test_users_keep_state_in_their_home(environ: dict[str, str]) -> None:
    """Without a usable XDG_STATE_HOME it is ~/.local/state, as the XDG specification says."""
    assert default_state_dir(environ, is_root=False) == Path.home() / ".local/state/smarthost"


def test_the_hostname_is_not_asked_of_a_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own name is taken as it is; DNS has no say in it."""

    def fail(*_: object) -> None:
        raise AssertionError("a resolver was asked")

    for asking in ("getfqdn", "gethostbyname", "gethostbyaddr", "getaddrinfo"):
        monkeypatch.setattr(socket, asking, fail)
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.Example.ORG")

    assert Surroundings.look().host_name == "box.example.org"
