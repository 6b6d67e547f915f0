# SPDX-License-Identifier: MIT
"""The hostile hosts of the benchmark as a process beside a daemon, and what mail is sent to each."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from bench.certificate import make_certificate
from bench.hostile_ways import GOOD_ADDRESS, Way
from tests.live.raw import RawClient
from tests.live.rig import HOSTNAME, WAIT_S, Daemon, serving
from tests.live.sink import Sink

_ROOT = Path(__file__).parents[2]  # where `bench` is imported from


class Hosts:
    """The process that plays all ways. `dns`: the port of its name server."""

    def __init__(self, port: int, directory: Path) -> None:
        made = make_certificate(directory)
        program = [sys.executable, "-m", "bench.hostile_hosts"]
        arguments = [str(port), HOSTNAME, str(made.certificate), str(made.key)]
        self._process = subprocess.Popen(
            [*program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
        )
        assert self._process.stdout is not None, "started with a pipe"
        said = self._process.stdout.readline()
        assert said, "it did not come up: its complaint is on stderr"
        self.dns: int = json.loads(said)["dns"]

    def end(self) -> dict[str, dict[str, int]]:
        """Let them go; give what each domain's host saw. To be called once."""
        said, _ = self._process.communicate(timeout=WAIT_S)
        seen: dict[str, dict[str, int]] = json.loads(said)
        return seen

    def kill(self) -> None:
        """End them whatever happened; harmless when repeated."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def hostile_world(directory: Path, config: str) -> Iterator[tuple[Daemon, Hosts, Sink]]:
    """Hostile hosts, one good one, and a daemon that delivers to them by MX; it is stopped in good order."""
    with Sink([GOOD_ADDRESS]) as sink:
        hosts = Hosts(sink.port, directory)
        try:
            by_mx = ["--dns", f"127.0.0.1:{hosts.dns}", "--mx-port", str(sink.port), "--allow-private"]
            with serving(directory / "state", *by_mx, config=config, quick=False) as daemon:
                yield daemon, hosts, sink
        finally:
            hosts.kill()


def send_to(client: RawClient, way: Way) -> None:
    """Send a message to all of a way's recipients, of the kind that shows the way."""
    recipients = [f"{local}@{way.domain}" for local in way.recipients]
    filling = (b"x" * 998 + b"\r\n") * (way.octets // 1000)
    text = "Grüße\r\n".encode() if way.body else b"Hello\r\n"
    content = b"Subject: to a hostile host\r\n\r\n" + text + filling
    parameters = f" BODY={way.body}" if way.body else ""
    client.command(f"MAIL FROM:<>{parameters}", "250")  # nobody is told: bounces are not what is looked at
    for recipient in recipients:
        client.command(f"RCPT TO:<{recipient}>", "250")
    if way.body == "BINARYMIME":
        answer = client.say(b"BDAT %d LAST\r\n%b" % (len(content), content))
    else:
        client.command("DATA", "354")
        answer = client.say(content + b".\r\n")
    assert answer.startswith("250"), answer


def ends_of(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Give all that became of each recipient: outcome and status."""
    ended: dict[str, list[str]] = {}
    for line in lines:
        if line["what"] in ("relayed", "deferred", "bounced", "postponed", "expired") and "recipient" in line:
            ended.setdefault(line["recipient"], []).append(f"{line['what']} {line.get('status', '')}")
    return ended


def memory_octets(daemon: Daemon) -> int:
    """Give what is resident of the daemon and its children."""
    parent = psutil.Process(daemon.process.pid)
    return sum(each.memory_info().rss for each in [parent, *parent.children(recursive=True)])
