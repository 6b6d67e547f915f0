# SPDX-License-Identifier: MIT
"""docs/twisted.md and examples/twisted_relay.py: what they show works as it stands there."""

import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from twisted.internet.address import IPv4Address

from smarthost.compat import relay, relaymanager

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "twisted.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
WAIT_S = 20.0


class Sink:
    """An SMTP server that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes]] = []
        self.has_two = threading.Event()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append((envelope.mail_from, *envelope.rcpt_tos, envelope.content))
        if len(self.got) == 2:
            self.has_two.set()
        return "250 2.0.0 thank you"


class AnyPort(Controller):
    """A Controller on a port that the system chooses."""

    def _trigger_server(self) -> None:
        server: Any = self.server
        self.port = server.sockets[0].getsockname()[1]
        super()._trigger_server()


def first_line_like(pattern: str, program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    for line in program.stdout:
        if found := re.search(pattern, line):
            return found[1]
    pytest.fail(f"the program ended without {pattern}")


@pytest.fixture
def sink() -> Iterator[tuple[Sink, int]]:
    sink = Sink()
    controller = AnyPort(sink, hostname="127.0.0.1", port=0)
    controller.start()
    yield sink, controller.port
    controller.stop()


@pytest.mark.slow
def test_the_example_takes_mail_and_relays_it(tmp_path: Path, sink: tuple[Sink, int]) -> None:
    """Who copies examples/twisted_relay.py has a relay: what smtplib hands in arrives at the smart host."""
    peer, port = sink
    command = [sys.executable, str(ROOT / "examples/twisted_relay.py"), str(tmp_path / "q"), "0", f"127.0.0.1:{port}"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        listening = int(first_line_like(r"listening on 127.0.0.1:(\d+)", program))
        with closing(smtplib.SMTP("127.0.0.1", listening, timeout=WAIT_S)) as client:
            refused = client.sendmail("me@example.org", ["b@b.example", "c@c.example"], "Subject: hi\n\nbody\n.dot\n")
        assert peer.has_two.wait(WAIT_S)
        program.send_signal(signal.SIGTERM)
        said = program.communicate(timeout=WAIT_S)[0]

    assert refused == {}
    assert sorted(each[:2] for each in peer.got) == [
        ("me@example.org", "b@b.example"),
        ("me@example.org", "c@c.example"),
    ]
    assert all(content.endswith(b"Subject: hi\r\n\r\nbody\r\n.dot\r\n") for *_, content in peer.got)
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_manuals_program_runs_until_it_is_stopped(tmp_path: Path) -> None:
    """The first program of the manual polls its directory and ends on SIGTERM without complaint."""
    (program,) = [block for block in BLOCKS if "reactor.run" in block]
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "odd-D").touch()  # makes the first poll say something
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "queue")]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert "odd" in first_line_like(r"(\S*odd-D is not a message)", running)
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=WAIT_S)[0]

    assert "Traceback" not in said


@pytest.mark.slow
def test_the_manuals_tac_makes_a_service_of_ours(tmp_path: Path) -> None:
    """What twistd would run relays with our classes; in a process of its own, for it changes Twisted's module."""
    (program,) = [block for block in BLOCKS if "tap.makeService" in block]
    check = "print([type(each.call[1][0]).__module__ for each in config.service if getattr(each, 'call', None)])"
    (tmp_path / "mail.py").write_text(f"{program}\n{check}\n")

    ran = subprocess.run(
        [sys.executable, "-W", "error", "mail.py"], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S
    )

    assert ran.returncode == 0, ran.stderr
    assert "smarthost.compat.relaymanager" in ran.stdout
    assert (tmp_path / "queue").is_dir()


def test_the_manuals_relayer_logs_in(tmp_path: Path) -> None:
    """The subclass of the manual has its secret, its TLS and its authenticator when a connection is made."""
    (program,) = [block for block in BLOCKS if "LoggingIn" in block]
    names: dict[str, Any] = {}
    exec(program, names)  # the manual's own text

    manager = names["manage"](relaymanager.Queue(tmp_path), b"pass")
    factory = manager.factory([], object(), *manager.fArgs, **manager.fKwArgs)
    made = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 587))

    assert isinstance(made, relay.ESMTPRelayer)
    assert [each.getName() for each in made.authenticators] == [b"PLAIN"]
    assert (made.secret, made.identity, manager.PORT) == (b"pass", b"mail.example.org", 587)
    assert made.context is not None


def test_the_manual_names_what_there_is() -> None:
    """Every option and name of the manual's text exists."""
    imports = [block for block in BLOCKS if block.startswith("from smarthost.compat import relay,")]
    for name in re.findall(r"`manager\.(\w+)", MANUAL):
        assert hasattr(relaymanager.SmartHostSMTPRelayingManager, name)

    assert len(imports) == 1
    assert len(BLOCKS) == 4
