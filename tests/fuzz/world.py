# SPDX-License-Identifier: MIT
"""What the machine around us says: PROXY headers, DNS answers, TOML files, operators' requests, envelopes on disk."""

import io
import pickle
import tempfile
import tomllib
from pathlib import Path
from random import Random

import dns.flags
import dns.message
import dns.rrset
import msgspec
from tests.fuzz.inputs import Target

from smarthost.backends.dns.codec import Unable, belongs_to, decode_answer, encode_question, is_truncated
from smarthost.backends.proxy import HEADER_OCTETS, ProxyHeader, read_header
from smarthost.backends.users import UserFile
from smarthost.backends.watched import Note
from smarthost.compat.envelope import ENVELOPE_OCTETS, read_envelope
from smarthost.config.read import read_config
from smarthost.config.surroundings import Surroundings
from smarthost.mail.errors import ConfigError
from smarthost.ops import verbs
from smarthost.ports import Answer
from smarthost.queue.store import Filter
from smarthost.testing.clock import FakeClock

_HERE = Surroundings("relay.example", Path("/nonexistent/smarthost"))
_ROOM = tempfile.TemporaryDirectory(prefix="smarthost-fuzz-")  # for as long as this process runs
_SHA = "$argon2id$v=19$m=8192,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43


def _check_proxy(octets: bytes, random: Random) -> None:
    whole = read_header(octets)
    assert whole is not None or len(octets) < HEADER_OCTETS, "who never ends a header is waited for"
    if isinstance(whole, ProxyHeader):
        assert 0 < whole.octets <= min(len(octets), HEADER_OCTETS)
        assert whole.ends is None or all(0 <= port <= 65535 for _, port in whole.ends)
    for _ in range(4):
        early = read_header(octets[: random.randint(0, len(octets))])
        assert early is None or early == whole, "the answer depends on where the stream was cut"


def _check_dns(octets: bytes, random: Random) -> None:
    rdtype = random.choice(("MX", "A", "AAAA"))
    belongs_to(octets, encode_question("example.org", rdtype))
    if len(octets) >= 12:
        is_truncated(octets)
    try:
        said = decode_answer("example.org", rdtype, octets, trust_ad=True)
    except ValueError:
        return
    if isinstance(said, Unable):
        assert len(said.why) <= 200
        assert said.why.isprintable()
        return
    assert isinstance(said, Answer)
    assert len(said.mx) <= 100
    assert len(said.addresses) <= 100
    names = [said.canonical, *said.aliases, *(each.exchange for each in said.mx)]
    assert all(name.isascii() and name.isprintable() and len(name) <= 1020 for name in names)
    assert said.detail.isprintable()


def _check_config(octets: bytes, random: Random) -> None:
    reading = read_config(octets.decode("utf-8", "replace"), surroundings=_HERE)
    assert (reading.config is None) is bool(reading.errors)
    for error in reading.errors:
        assert len(str(error)) < 20_000


def _check_users(octets: bytes, random: Random) -> None:
    file = Path(_ROOM.name) / "users.toml"
    file.write_bytes(octets)
    try:
        UserFile(file, FakeClock(), _note).close()
    except ConfigError:  # the daemon says so and does not start, or keeps the users it knows
        return
    tomllib.loads(file.read_text("utf-8"))  # what was taken is TOML


def _ignore(level: str, what: str, **facts: object) -> None:
    """Take a note."""


_note: Note = _ignore


def _check_control(octets: bytes, random: Random) -> None:
    try:
        request = verbs.decode_request(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # what ops.control answers
        return
    line = verbs.to_line(request)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert verbs.decode_request(line) == request


def _check_envelope(octets: bytes, random: Random) -> None:
    try:
        value = read_envelope(io.BytesIO(octets), "x-H")
    except pickle.UnpicklingError:
        return
    assert len(repr(value)) <= 64 * ENVELOPE_OCTETS


_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXIES = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\nEHLO a\r\n", b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 x\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 25\r\n", b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
    _SIGNATURE + b"\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x9c\x40\0\x19EHLO a\r\n",
    _SIGNATURE + b"\x21\x21\0\x24" + bytes(range(36)), _SIGNATURE + b"\x20\0\0\0",
    _SIGNATURE + b"\x21\x11\0\x14\xc0\0\2\1\xc0\0\2\2\x9c\x40\0\x19\3\0\4\1\2\3\4",
)  # fmt: skip


def _answer(name: str, rdtype: str, *sets: tuple[str, str, tuple[str, ...]]) -> bytes:
    reply = dns.message.make_response(dns.message.make_query(name, rdtype, use_edns=True))
    reply.flags |= dns.flags.RA | dns.flags.AD
    for owner, kind, texts in sets:
        reply.answer.append(dns.rrset.from_text(owner, 300, "IN", kind, *texts))
    return reply.to_wire(max_size=65_535)


_ANSWERS = (
    _answer("example.org.", "MX", ("example.org.", "MX", tuple(f"{n} mx{n}.example.org." for n in range(1, 9)))),
    _answer("example.org.", "A", ("example.org.", "CNAME", ("a.example.",)), ("a.example.", "A", ("192.0.2.1",))),
    _answer("example.org.", "AAAA", ("example.org.", "AAAA", ("2001:db8::1", "2001:db8::2"))),
    _answer("example.org.", "MX", ("example.org.", "MX", ("0 .",))),
    _answer("example.org.", "MX"),
    _answer("example.org.", "A", ("example.org.", "A", tuple(f"192.0.2.{n}" for n in range(1, 150)))),
    b"\x12\x34\x81\x82\0\1\0\0\0\0\0\0\7example\3org\0\0\x0f\0\1",
)
_POINTERS = (
    b"\xc0\x0c",
    b"\xc0\x0e",
    b"\xc0\0",
    b"\x3f",
    b"\x40",
    b"\xff\xff",
    b"\0\0",
    b"\x80\0\0\0",
    b"\0\x0f\0\1",
    b"\0\5",
)

_CONFIG = b"""hostname = "relay.example.org"
postmaster = "ops@example.org"
listen = ["127.0.0.1:2525", "[::1]:2525"]
relay_from = ["127.0.0.0/8", "192.0.2.0/24"]
soft_bounce = false

[[listener]]
listen = ["127.0.0.1:5525"]
mode = "lmtp"
proxy_from = ["192.0.2.0/24"]
bare_newline = "normalise"

[limits]
message_size = "50MiB"
recipients = 1000
idle_session = "5s"

[retry]
expire_after = "5d"
delay_warning = "4h"
jitter = 0.2

[[next_hop]]
host = "smtp.example.com"
port = 587
tls = "verified"

[[route]]
domains = ["example.net", "*.example.com"]
next_hop = "192.0.2.7:26"
senders = ["ann@example.org"]

[[network]]
networks = ["192.0.2.0/24"]
messages_per_minute = 10
"""
_KEYS = (
    b"[[listener]]\n", b"[tls]\n", b"[auth]\n", b"[[network]]\n", b"[[dkim]]\n", b"[[next_hop]]\n", b"[[route]]\n",
    b"mode = ", b"tls = ", b'"', b"'''", b"[", b"]", b"{", b"}", b"true", b"-1", b"1e999", b"nan", b"9" * 30, b"= ",
    b"hostname = ", b"5 d", b"-3 s", b"1 MiB", b"2026-01-01T00:00:00Z", b"::1", b"0.0.0.0/33", b"*.", b"@", b"\\u0000",
    b"users_file = ", b"[" * 2000, b"key = ", b"password = ", b"source = ",
)  # fmt: skip
_USERS = (
    b"[ann]\npassword = \"" + _SHA.encode() + b"\"\nsenders = [\"ann@example.org\", \"@lists.example.org\"]\n",
    b"[\"j\xc3\xbcrgen\"]\ncertificates = [\"" + b"5e" * 32 + b"\"]\nsenders = [\"*\"]\nmessages_per_minute = 10\n",
)  # fmt: skip
_REQUESTS = tuple(
    verbs.to_line(request)
    for request in list[verbs.Request](
        (
            verbs.Ping(), verbs.Send("a@b", ("c@d", "e@f"), 100), verbs.QueueFind(Filter(domain="example.org")),
            verbs.QueueChange("retry", Filter(id="0123456789abcdef")), verbs.HostsFind("mx"),
            verbs.HostsReset("", True), verbs.PlanAddress("bob@example.net", True),
        ),
    )
)  # fmt: skip
_JSON = (
    b'"verb":', b'"send"', b'"queue-change"', b'"which":', b"{", b"}", b"[", b"]", b"null", b"1e400", b"-1", b"9" * 40,
    b"\\ud800", b"\\u0000", b'"octets":', b'"recipients":', b"[" * 2000, b"true",
)  # fmt: skip
_PICKLES = (
    *(pickle.dumps(["ann@example.org", "bob@example.net"], protocol) for protocol in range(6)),
    b"(lp0\nS'ann@example.org'\np1\naS'bob\\xfc@example.net'\np2\na.", pickle.dumps(["a", ("b", [1, 2**64])], 2),
)  # fmt: skip
_OPCODES = (
    b"cos\nsystem\n", b"R.", b"\x8c\x02os\x8c\x06system\x93", b"(", b"t", b"l", b"]", b"a", b"e", b"h\0", b"q\xff",
    b"r\xff\xff\xff\xff", b"p999999999\n", b"2", b"L" + b"9" * 5000 + b"L\n", b"\x8b\xff\xff\xff\x7f", b".",
    b"B\xff\xff\xff\x7f",    b"X\xff\xff\xff\xff", b"]q\0h\0a",
)  # fmt: skip

TARGETS = (
    Target(
        "proxy", _check_proxy, _PROXIES, (b"PROXY ", b"TCP4 ", b"UNKNOWN", _SIGNATURE, b"\x21", b"\xff\xff"), 20_000
    ),
    Target("dns", _check_dns, _ANSWERS, _POINTERS, 15_000),
    Target("config", _check_config, (_CONFIG, b""), _KEYS, 2_000),
    Target("users", _check_users, _USERS, (*_KEYS, _SHA.encode(), b"m=", b"senders = ", b"[ann]\n"), 4_000),
    Target("control", _check_control, _REQUESTS, _JSON, 20_000),
    Target("envelope", _check_envelope, _PICKLES, _OPCODES, 15_000),
)
