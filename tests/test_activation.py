# SPDX-License-Identifier: MIT
"""Which listener a passed socket is for."""

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from smarthost.activation import listen_at_passed
from smarthost.backends.systemd import PassedSocket
from smarthost.config import AuthSection, Config, Endpoint, ListenerSection, Mode, parse_config
from smarthost.mail.errors import ConfigError

NOT_USED = socket.socket()


def configured(text: str) -> Config:
    return parse_config(f'hostname = "relay.example.org"\nstate_dir = "/nowhere"\n{text}')


def passed(name: str, host: str, port: int, *, is_dual: bool = False) -> PassedSocket:
    return PassedSocket(name, (host, port), is_dual, NOT_USED)


def addresses(config: Config) -> list[list[str]]:
    return [list(map(str, config.listen)), *[list(map(str, each.listen)) for each in config.listeners]]


def test_without_sockets_nothing_changes() -> None:
    """Every start without socket units is as ever."""
    config = configured('listen = ["0.0.0.0:25"]')

    assert listen_at_passed(config, ()) == config


def test_a_socket_is_for_the_listener_that_names_its_address() -> None:
    """The address decides before the name, whatever that is; what has no socket is bound as ever."""
    config = configured('listen = ["192.0.2.1:25", "127.0.0.1:25"]')

    assert listen_at_passed(config, [passed("mail.socket", "192.0.2.1", 25)]) == config


def test_a_socket_named_smtp_stands_for_both_families() -> None:
    """ListenStream=25 replaces what could not be bound beside it, and leaves other ports alone."""
    config = configured('listen = ["0.0.0.0:25", "[::]:25", "127.0.0.1:2525"]')

    changed = listen_at_passed(config, [passed("smtp", "::", 25, is_dual=True)])

    assert addresses(changed) == [["[::]:25", "127.0.0.1:2525"]]


def test_a_socket_of_one_family_leaves_the_other() -> None:
    """With BindIPv6Only=ipv6-only there are two sockets; one alone leaves the other address to be bound."""
    config = configured('listen = ["0.0.0.0:25", "[::]:25"]')

    assert addresses(listen_at_passed(config, [passed("smtp", "::", 25)])) == [["0.0.0.0:25", "[::]:25"]]


def listeners() -> Config:
    """Give a relay at 25, a submission at 587 without a certificate, and LMTP at 24, all on loopback."""
    return replace(
        configured(""),
        listen=(),
        auth=AuthSection(users_file=Path("/nowhere/users.toml")),
        listeners=(
            ListenerSection(listen=(Endpoint("127.0.0.1", 25),)),
            ListenerSection(listen=(Endpoint("127.0.0.1", 587),), mode=Mode.SUBMISSION),
            ListenerSection(listen=(Endpoint("127.0.0.1", 24),), mode=Mode.LMTP),
        ),
    )


def test_names_of_modes_choose_among_listeners() -> None:
    """smtp, submission and lmtp each find the listener of that mode, wherever they listen."""
    changed = listen_at_passed(
        listeners(),
        [passed("lmtp", "192.0.2.1", 2400), passed("smtp", "::", 25, is_dual=True), passed("submission", "::1", 587)],
    )

    assert addresses(changed) == [[], ["[::]:25"], ["127.0.0.1:587", "[::1]:587"], ["127.0.0.1:24", "192.0.2.1:2400"]]


def test_passwords_in_clear_are_not_let_out_by_a_socket() -> None:
    """A submission listener without a certificate is for loopback, whatever a socket unit says."""
    with pytest.raises(ConfigError, match="passwords would travel in clear"):
        listen_at_passed(listeners(), [passed("submission", "::", 587, is_dual=True)])


@pytest.mark.parametrize("name", ["mail.socket", "submissions", "http", "unknown"])
def test_a_socket_that_nobody_takes_is_an_error_with_a_cure(name: str) -> None:
    """A leftover socket would take connections that nobody ever answers."""
    with pytest.raises(ConfigError, match=rf'"{name}" at \[::\]:465: no listener.*put its address into `listen`'):
        listen_at_passed(listeners(), [passed(name, "::", 465)])


def test_a_name_that_fits_two_listeners_is_settled_by_the_port_or_an_error() -> None:
    """Two relays have different rules perhaps: smarthost does not guess."""
    config = configured('[[listener]]\nlisten = ["127.0.0.1:25"]\n[[listener]]\nlisten = ["127.0.0.1:2525"]\n')

    assert addresses(listen_at_passed(config, [passed("smtp", "0.0.0.0", 2525)])) == [
        [],
        ["127.0.0.1:25"],
        ["0.0.0.0:2525"],
    ]
    with pytest.raises(ConfigError, match="2 listeners have that mode"):
        listen_at_passed(config, [passed("smtp", "0.0.0.0", 26)])
