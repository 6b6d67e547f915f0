# SPDX-License-Identifier: MIT
"""The world around the demo's relay: destinations and what must become of their mail, hosts, a DNS zone, letters.

Everything is on loopback: an address of 127.0.0.0/8 for each host, one port for all of them, as port 25 is on the
internet. The hosts and the zone are those of smarthost.testing, which share no SMTP code with the relay.
"""

import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpListener
from smarthost.mail.errors import ConfigError
from smarthost.ops import exits
from smarthost.testing.dns import ScriptedDns, Zone
from smarthost.testing.peers import ScriptedExchanger

HOME = "home.example"  # where the senders live, and where bounces go
SENDERS = tuple(f"{name}@{HOME}" for name in ("ada", "barbara", "edsger", "grace", "leslie"))
GREYLISTED_TIMES = 2
_PORT_ROUNDS = 50  # ports tried until one is free at all addresses


class Destination(Struct, frozen=True, kw_only=True):
    """A kind of destination, and what must become of its mail.

    Each message has one recipient of its own; with `refused`, a second one of that local part, who must bounce.
    `status`: of what must bounce. `attempts`: until a recipient reaches its end. `dead_host`: first tried, then spared.
    """

    domain: str
    kind: str
    messages: int
    takes_mail: bool = True
    refused: str = ""
    status: str = ""
    attempts: int = 1
    dead_host: str = ""


DESTINATIONS = (
    Destination(domain="healthy.example", kind="healthy host", messages=45),
    Destination(domain="greylist.example", kind="greylisting host", messages=15, attempts=1 + GREYLISTED_TIMES),
    Destination(domain="deadmx.example", kind="dead MX first", messages=15, dead_host="dead.deadmx.example"),
    Destination(domain="picky.example", kind="refused recipient", messages=15, refused="nobody", status="5.1.1"),
    Destination(domain="nomail.example", kind="null MX", messages=5, takes_mail=False, status="5.1.10"),
    Destination(domain="nowhere.example", kind="no such domain", messages=5, takes_mail=False, status="5.1.2"),
)

_ADDRESSES = {
    "mx.healthy.example": "127.0.0.2",
    "mx.greylist.example": "127.0.0.3",
    "dead.deadmx.example": "127.0.0.4",
    "alive.deadmx.example": "127.0.0.5",
    "mx.picky.example": "127.0.0.6",
    "mx.home.example": "127.0.0.7",
}
_DEAD = "dead.deadmx.example"
_MX: Mapping[str, tuple[str, ...]] = {
    "healthy.example": ("MX 10 mx.healthy.example",),
    "greylist.example": ("MX 10 mx.greylist.example",),
    "deadmx.example": ("MX 10 dead.deadmx.example", "MX 20 alive.deadmx.example"),
    "picky.example": ("MX 10 mx.picky.example",),
    "nomail.example": ("MX 0 .",),  # RFC 7505
    HOME: ("MX 10 mx.home.example",),
}


class Letter(Struct, frozen=True):
    """A message that the demo sends; `message_id` names it in its content too."""

    number: int
    destination: Destination
    reverse_path: str
    recipients: tuple[str, ...]
    message_id: str
    content: bytes


class Place(Struct, frozen=True):
    """What stands: hosts by domain, all at `port`; the DNS server."""

    exchangers: Mapping[str, ScriptedExchanger]
    port: int
    dns: ScriptedDns


class _Greylist:
    """Answers RCPT with 450 the first times that a recipient is named."""

    def __init__(self) -> None:
        self._named: Counter[str] = Counter()

    def __call__(self, recipient: str) -> str:
        self._named[recipient] += 1
        if self._named[recipient] <= GREYLISTED_TIMES:
            return "450 4.7.1 Greylisted, please come again"
        return "250 2.1.5 Welcome back"


def exchangers() -> dict[str, ScriptedExchanger]:
    """Make the hosts that take mail, by recipient domain."""
    return {
        "healthy.example": ScriptedExchanger(name="mx.healthy.example"),
        "greylist.example": ScriptedExchanger(name="mx.greylist.example", replies={"rcpt": _Greylist()}),
        "deadmx.example": ScriptedExchanger(name="alive.deadmx.example"),
        "picky.example": ScriptedExchanger(
            name="mx.picky.example", replies={"rcpt": {"nobody@picky.example": "550 5.1.1 No such user"}}
        ),
        HOME: ScriptedExchanger(name="mx.home.example"),
    }


@asynccontextmanager
async def build(hosts: Mapping[str, ScriptedExchanger]) -> AsyncIterator[Place]:
    """Open everything but the relay. Raises: CommandFailed: this machine lacks the loopback addresses."""
    records: dict[str, tuple[str, ...]] = {name: (f"A {address}",) for name, address in _ADDRESSES.items()}
    listener = TcpListener(SystemClock())
    async with ScriptedDns(Zone({**records, **_MX})) as dns:
        port, dead = await _listen(listener, hosts)
        try:
            yield Place(hosts, port, dns)
        finally:
            dead.close()
            await listener.close()
            for host in hosts.values():
                for session in host.sessions:
                    session.connection.abort()


async def _listen(listener: TcpListener, hosts: Mapping[str, ScriptedExchanger]) -> tuple[int, socket.socket]:
    """Listen with all hosts at one port, and hold that port where the dead host is, so that nobody listens there."""
    failure: Exception | None = None
    for _ in range(_PORT_ROUNDS):
        dead = socket.socket()
        try:
            dead.bind((_ADDRESSES[_DEAD], 0))
            port: int = dead.getsockname()[1]
            for host in hosts.values():
                await listener.listen(_ADDRESSES[host.name], port, host.accept)
        except (OSError, ConfigError) as error:
            failure = error
            dead.close()
            listener.pause()
        else:
            return port, dead
    needed = f"{min(_ADDRESSES.values())} to {max(_ADDRESSES.values())}"
    raise exits.CommandFailed(f"the demo needs one free port at {needed}: {failure}", exits.UNAVAILABLE)


def write_letters() -> tuple[Letter, ...]:
    """Write the hundred letters, the same ones each time, their destinations well mixed."""
    chance = random.Random(20)  # noqa: S311 - the same letters each time
    order = [destination for destination in DESTINATIONS for _ in range(destination.messages)]
    chance.shuffle(order)
    return tuple(_write_letter(number, destination, chance) for number, destination in enumerate(order, 1))


def _write_letter(number: int, destination: Destination, chance: random.Random) -> Letter:
    reverse_path = SENDERS[number % len(SENDERS)]
    recipients = [f"reader{number}@{destination.domain}"]
    if destination.refused:
        recipients.append(f"{destination.refused}@{destination.domain}")
    message_id = f"<demo-{number}@{HOME}>"
    header = (
        f"From: <{reverse_path}>\r\nTo: {', '.join(f'<{recipient}>' for recipient in recipients)}\r\n"
        f"Subject: Letter {number} of the demo\r\nMessage-ID: {message_id}\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    body = "\r\n".join(chance.choices(_LINES, k=chance.choice((3, 30, 300)))) + "\r\n"
    return Letter(number, destination, reverse_path, tuple(recipients), message_id, (header + body).encode())


# What a relay could get wrong: dots at the beginning of a line, octets above 127, blanks at the end, long lines.
_LINES = (
    "It was a bright cold day in April, and the relay had accepted thirteen.",
    ".",
    "..two dots and a line that goes on",
    ".one dot",
    "",
    "blanks at the end   ",
    "Grüße aus Zürich, 你好, привет",
    "From here on nothing may be quoted",
    "x" * 998,  # the longest line that RFC 5321 4.5.3.1.6 allows
    "\ttabs\tand\t=3D what looks encoded",
)
