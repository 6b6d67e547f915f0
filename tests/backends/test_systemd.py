# SPDX-License-Identifier: MIT
"""What a service manager hears and passes: real datagram sockets, real listening sockets."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from smarthost.backends.systemd import Notifier, PassedSocket, find_passed, take_sockets
from smarthost.mail.errors import ConfigError


@contextmanager
def listening_manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind("\0" + address[1:] if address[0] == "@" else address)
        yield manager


def test_states_travel_in_one_datagram(tmp_path: Path) -> None:
    """What belongs together arrives together, a line for each state."""
    address = str(tmp_path / "notify")
    with listening_manager(address) as manager, closing(Notifier(address)) as notifier:
        assert notifier.tell(READY=1, STATUS="all is well")

        assert manager.recv(4096) == b"READY=1\nSTATUS=all is well"


def test_an_abstract_socket_is_reached() -> None:
    """A container's manager has a socket without a file: @ stands for the leading zero octet."""
    address = f"@smarthost-test-{os.getpid()}"
    with listening_manager(address) as manager, closing(Notifier(address)) as notifier:
        assert notifier.tell(WATCHDOG=1)

        assert manager.recv(4096) == b"WATCHDOG=1"


def test_what_a_peer_wrote_cannot_speak_to_the_manager(tmp_path: Path) -> None:
    """A newline in a text would begin another state, such as MAINPID, which says whom to kill."""
    address = str(tmp_path / "notify")
    with listening_manager(address) as manager, closing(Notifier(address)) as notifier:
        notifier.tell(STATUS="paused: \nMAINPID=1\x1b[2J" + "x" * 5000)

        heard = manager.recv(65536).decode()
    assert heard.startswith("STATUS=paused: ?MAINPID=1?[2Jx")
    assert "\n" not in heard
    assert len(heard) < 600


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(tmp_path: Path) -> None:
    """Nobody waits for a service manager: what it does not take is said to be not taken."""
    address = str(tmp_path / "notify")
    with closing(Notifier(address)) as notifier:
        assert not notifier.tell(READY=1)
        with listening_manager(address):
            said = [notifier.tell(WATCHDOG=1) for _ in range(10_000)]
    assert said[0]
    assert not said[-1]


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", "@", "/"])
def test_an_address_of_another_kind_is_named(address: str) -> None:
    """A variable that nobody understands is told, not passed over."""
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier(address)


def listen(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen()
    return sock


@contextmanager
def passed(*sockets: socket.socket, names: str = "", pid: int = 7) -> Iterator[tuple[dict[str, str], int]]:
    """Pass sockets at descriptors that follow one another, as the manager does from 3 on.

    Gives the environment and the first descriptor; whoever takes the sockets closes them.
    """
    first = 500
    for at, sock in enumerate(sockets, first):
        os.dup2(sock.fileno(), at)
        sock.close()
    environ = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names, "OTHER": "kept"}
    try:
        yield environ, first
    finally:
        for at in range(first, first + len(sockets)):
            try:
                os.close(at)
            except OSError:
                continue


def close(*taken: PassedSocket) -> None:
    for each in taken:
        each.sock.close()


def test_passed_sockets_have_their_names_and_addresses() -> None:
    """FileDescriptorName= and the address say which listener a socket is for; children inherit neither."""
    one, other = listen(), listen("::1")
    addresses = [one.getsockname()[:2], other.getsockname()[:2]]
    with passed(one, other, names="smtp:submission") as (environ, first):
        taken = take_sockets(environ, 7, first)

        assert [(each.name, each.address) for each in taken] == [
            ("smtp", addresses[0]),
            ("submission", addresses[1]),
        ]
        assert not any(os.get_inheritable(each.sock.fileno()) for each in taken)
        assert not any(each.sock.getblocking() for each in taken)
        assert environ == {"OTHER": "kept"}
        close(*taken)


def test_sockets_for_another_process_are_left_alone() -> None:
    """A shell that was activated and starts us has not passed its sockets on."""
    with passed(listen()) as (environ, first):
        assert take_sockets(environ, 8, first) == ()
        os.fstat(first)
        assert environ == {"OTHER": "kept"}


def test_a_socket_without_a_name_is_unknown() -> None:
    """An old manager names nothing; the address still tells."""
    with passed(listen()) as (environ, first):
        del environ["LISTEN_FDNAMES"]
        (taken,) = take_sockets(environ, 7, first)
        assert taken.name == "unknown"
        close(taken)


def test_a_dual_socket_is_known_as_one() -> None:
    """ListenStream=25 is [::]:25 for both families, unless BindIPv6Only= says otherwise."""
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    only = socket.create_server(("::", 0), family=socket.AF_INET6)
    with passed(both, only) as (environ, first):
        taken = take_sockets(environ, 7, first)
        assert [each.is_dual for each in taken] == [True, False]
        close(*taken)


def test_a_connection_in_place_of_a_listener_is_told_with_its_cure() -> None:
    """Accept=yes would start a daemon for each connection: the error names the setting."""
    listening = listen()
    client = socket.create_connection(listening.getsockname())
    accepted, _ = listening.accept()
    with passed(accepted, names="smtp") as (environ, first), pytest.raises(ConfigError, match=r'"smtp".*Accept=no'):
        take_sockets(environ, 7, first)
    client.close()
    listening.close()


def test_a_descriptor_that_is_no_socket_is_told() -> None:
    """A file or a gap among the passed descriptors is an error with its number and name."""
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "odd"}
    with pytest.raises(ConfigError, match=r'descriptor 777 \("odd"\) is not a socket'):
        take_sockets(environ, 7, 777)


@pytest.mark.parametrize("number", ["-1", "x", "100000", "١"])
def test_a_number_that_is_none_is_told(number: str) -> None:
    """Garbage in LISTEN_FDS is no reason to take up whatever is open."""
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        take_sockets({"LISTEN_PID": "7", "LISTEN_FDS": number}, 7)


def test_a_passed_socket_is_there_again_for_who_listens_anew() -> None:
    """A reload closes its listener and opens it: the manager's own socket stays, so the port is not lost."""
    listening = listen()
    host, port = listening.getsockname()
    with passed(listening) as (environ, first):
        taken = take_sockets(environ, 7, first)
        for _ in range(2):
            mine = find_passed(taken, host, port)
            assert mine is not None
            mine.close()
        assert find_passed(taken, host, port + 1) is None
        socket.create_connection((host, port)).close()
        close(*taken)
