# SPDX-License-Identifier: MIT
"""Scripted DNS, for tests of anything that asks DNS: a zone as data, a real server on loopback, and a resolver without.

    zone = Zone({"example.org": "MX 10 mx.example.org", "mx.example.org": ("A 127.0.0.1", "60 AAAA ::1")},
                faults={"broken.example": Fault.SERVFAIL, ("mx.example.org", "AAAA"): Fault.TIMEOUT})
    async with ScriptedDns(zone) as dns:
        ...ask dns.address...; dns.asked["mx.example.org", "A"]

Zones may be changed at any time. Never leaves loopback.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Self, TypeAlias, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from smarthost.ports import Answer, AnswerStatus, MxRecord

DEFAULT_TTL_S = 300
NEGATIVE_TTL_S = 60
ALIASES_FOLLOWED = 20  # within one answer
_UDP_ROUNDS = 20  # ports tried until one is free for both UDP and TCP


class Fault(Enum):
    """What goes wrong with a question."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    TIMEOUT = "timeout"  # no answer at all
    TRUNCATE = "truncate"  # over UDP only TC, over TCP the answer
    WRONG_ID = "wrong id"  # UDP answers carry another id, and so are none
    WRONG_QUESTION = "wrong question"  # UDP answers are about another name
    GARBAGE = "garbage"  # right id, right question, then octets that make no sense
    LAME = "lame"  # a referral: other servers might know, this one does not ask them
    NO_EDNS = "no EDNS"  # FORMERR to a query with OPT, the answer to one without
    HALF_ALIAS = "half alias"  # only the first alias, not what it leads to


Records: TypeAlias = str | Sequence[str]
FaultKey: TypeAlias = str | tuple[str, str]


class Zone:
    """All that a scripted world of names holds. Records are texts "[TTL] TYPE RDATA" with absolute names.

    A name has "NODATA" for types it lacks; names without records are NXDOMAIN, unless others lie below them. A fault is
    for a name, or for a (name, type).
    """

    def __init__(
        self,
        records: Mapping[str, Records] | None = None,
        *,
        faults: Mapping[FaultKey, Fault] | None = None,
        negative_ttl_s: int = NEGATIVE_TTL_S,
        secure: bool = False,
    ) -> None:
        self.negative_ttl_s = negative_ttl_s
        self.secure = secure
        self.faults: dict[FaultKey, Fault] = dict(faults or {})
        self._records: dict[str, dict[str, list[tuple[int, str]]]] = {}
        for name, texts in (records or {}).items():
            self.set(name, *([texts] if isinstance(texts, str) else texts))

    def set(self, name: str, *records: str) -> None:
        """Give a name these records and no others; none: the name exists, and is empty.

        Raises: ValueError: a record that is none.
        """
        by_type: dict[str, list[tuple[int, str]]] = {}
        for text in records:
            first, _, rest = text.strip().partition(" ")
            ttl_s, text = (int(first), rest) if first.isdigit() else (DEFAULT_TTL_S, text)
            rdtype, _, rdata = text.strip().partition(" ")
            if not rdata:
                raise ValueError(f"a record is '[TTL] TYPE RDATA', not {text!r}")
            by_type.setdefault(rdtype.upper(), []).append((ttl_s, rdata.strip()))
        self._records[_key(name)] = by_type

    def remove(self, name: str) -> None:
        """Let a name not exist any more."""
        self._records.pop(_key(name), None)

    def fault(self, name: str, rdtype: str) -> Fault | None:
        """Give what is to go wrong with this question."""
        return self.faults.get((name, rdtype), self.faults.get(name))

    def records(self, name: str, rdtype: str) -> list[tuple[int, str]]:
        """Give (TTL, rdata text) of each record, without following aliases."""
        return self._records.get(_key(name), {}).get(rdtype, [])

    def exists(self, name: str) -> bool:
        """Tell whether the name, or one below it, has been set."""
        return _key(name) in self._records or any(each.endswith(f".{_key(name)}") for each in self._records)

    def follow(self, name: str, rdtype: str) -> tuple[list[str], str]:
        """Give the aliases passed on the way from `name`, and where they end (in a loop: where it closes)."""
        passed: list[str] = []
        here = _key(name)
        while not self.records(here, rdtype) and len(passed) < ALIASES_FOLLOWED and here not in passed:
            alias = self.records(here, "CNAME")
            if not alias:
                break
            passed.append(here)
            here = _key(alias[0][1])
            if self.fault(passed[0], rdtype) is Fault.HALF_ALIAS:
                break
        return passed, here


def _key(name: str) -> str:
    return name.lower().removesuffix(".")


class ScriptedResolver:
    """A ports.Resolver without sockets: answers from a Zone at once; TIMEOUT is an answer that says so."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        self.asked[name, rdtype] += 1
        zone, fault = self.zone, self.zone.fault(name, rdtype)
        if fault is not None and fault in _STATUS:
            ttl_s = zone.negative_ttl_s if fault in (Fault.NXDOMAIN, Fault.NODATA) else 0
            return Answer(name, rdtype, _STATUS[fault], canonical=name, ttl_s=ttl_s, detail=f"scripted {fault.value}")
        aliases, here = zone.follow(name, rdtype)
        if here in aliases or len(aliases) >= ALIASES_FOLLOWED:
            return Answer(
                name,
                rdtype,
                AnswerStatus.SERVFAIL,
                canonical=here,
                aliases=tuple(aliases),
                detail=f"alias loop at {here}",
            )
        records = zone.records(here, rdtype)
        ttls = [ttl_s for alias in aliases for ttl_s, _ in zone.records(alias, "CNAME")]
        ttls += [ttl_s for ttl_s, _ in records] or [0 if fault is Fault.HALF_ALIAS else zone.negative_ttl_s]
        if records:
            status = AnswerStatus.FOUND
        else:
            status = AnswerStatus.NODATA if zone.exists(here) or fault else AnswerStatus.NXDOMAIN
        return Answer(
            name,
            rdtype,
            status,
            mx=tuple(_mx(text) for _, text in records) if rdtype == "MX" else (),
            addresses=tuple(text for _, text in records) if rdtype in ("A", "AAAA") else (),
            canonical=here if aliases else name,
            aliases=tuple(aliases),
            ttl_s=min(ttls),
            secure=zone.secure,
            texts=tuple(_said(text, rdtype) for _, text in records) if rdtype in ("TXT", "PTR") else (),
        )


def _said(text: str, rdtype: str) -> str:
    """Give what a resolver makes of a PTR's name, or of a TXT's quoted strings."""
    return _key(text) if rdtype == "PTR" else "".join(text[1:-1].split('" "')) if text.startswith('"') else text


_STATUS: dict[Fault, AnswerStatus] = {
    Fault.SERVFAIL: AnswerStatus.SERVFAIL,
    Fault.REFUSED: AnswerStatus.SERVFAIL,
    Fault.NXDOMAIN: AnswerStatus.NXDOMAIN,
    Fault.NODATA: AnswerStatus.NODATA,
    Fault.TIMEOUT: AnswerStatus.TIMEOUT,
    Fault.WRONG_ID: AnswerStatus.TIMEOUT,
    Fault.WRONG_QUESTION: AnswerStatus.TIMEOUT,
    Fault.GARBAGE: AnswerStatus.SERVFAIL,
    Fault.LAME: AnswerStatus.SERVFAIL,
}


def _mx(text: str) -> MxRecord:
    preference, _, exchange = text.partition(" ")
    return MxRecord(int(preference), _key(exchange.strip()))


class ScriptedDns:
    """A DNS server on loopback, UDP and TCP on one port (0: any). `asked` counts questions by (name, type)."""

    def __init__(self, zone: Zone, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()
        self.asked_over_tcp: Counter[tuple[str, str]] = Counter()
        self._wanted = (host, port)
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._address: tuple[str, int] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._address is not None, "the server is not running"
        return self._address

    async def __aenter__(self) -> Self:
        host, port = self._wanted
        for last in (False,) * (_UDP_ROUNDS - 1) + (True,):
            tcp = await asyncio.start_server(self._serve, host, port)
            bound: int = tcp.sockets[0].getsockname()[1]
            try:
                udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    lambda: _UdpDoor(self), local_addr=(host, bound)
                )
            except OSError:
                tcp.close()
                if port or last:
                    raise
                continue
            self._tcp, self._udp, self._address = tcp, udp, (host, bound)
            break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._udp is not None, "entered"
        assert self._tcp is not None, "entered"
        self._udp.close()
        self._tcp.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._tcp.wait_closed()
        await asyncio.sleep(0)  # the UDP transport closes in the loop's next turn
        self._address = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "called by the server in a task"
        self._connections.add(task)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                answer = self.answer(await reader.readexactly(length), over_tcp=True)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
        """Give the octets to answer a query with, or None for silence."""
        try:
            query = dns.message.from_wire(message)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        name, rdtype = _key(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, rdtype] += 1
        if over_tcp:
            self.asked_over_tcp[name, rdtype] += 1
        fault = self.zone.fault(name, rdtype)
        if fault is Fault.TIMEOUT:
            return None
        response = dns.message.make_response(query, recursion_available=fault is not Fault.LAME)
        if fault is Fault.NO_EDNS and query.edns >= 0:
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
            return response.to_wire()
        if fault in _RCODES:
            response.set_rcode(_RCODES[fault])
        if fault is Fault.LAME:
            response.authority.append(_rrset(name.rpartition(".")[2], "NS", [(DEFAULT_TTL_S, "ns.invalid")]))
        elif fault not in (Fault.SERVFAIL, Fault.REFUSED):
            self._fill(response, name, rdtype, is_empty=fault in (Fault.NXDOMAIN, Fault.NODATA))
        if over_tcp:
            return response.to_wire(max_size=65535, want_shuffle=False, prefer_truncation=True)
        return _spoil(response, fault, query.payload or 512)

    def _fill(self, response: dns.message.Message, name: str, rdtype: str, *, is_empty: bool) -> None:
        zone = self.zone
        aliases, here = ([], name) if is_empty else zone.follow(name, rdtype)
        for alias in aliases:
            response.answer.append(_rrset(alias, "CNAME", zone.records(alias, "CNAME")))
        records = [] if is_empty else zone.records(here, rdtype)
        if zone.secure:
            response.flags |= dns.flags.AD
        if records:
            response.answer.append(_rrset(here, rdtype, records))
            return
        if zone.fault(name, rdtype) is Fault.HALF_ALIAS:
            return
        if not is_empty and not zone.exists(here):
            response.set_rcode(dns.rcode.NXDOMAIN)
        ttl_s = zone.negative_ttl_s
        soa = f"ns.invalid. hostmaster.invalid. 1 7200 900 1209600 {ttl_s}"
        top = here.rpartition(".")[2]  # a resolver believes no SOA from elsewhere
        response.authority.append(dns.rrset.from_text(f"{top}.", max(ttl_s, 1), "IN", "SOA", soa))


_RCODES: dict[Fault | None, dns.rcode.Rcode] = {
    Fault.SERVFAIL: dns.rcode.SERVFAIL,
    Fault.REFUSED: dns.rcode.REFUSED,
    Fault.NXDOMAIN: dns.rcode.NXDOMAIN,
}


def _rrset(name: str, rdtype: str, records: Sequence[tuple[int, str]]) -> dns.rrset.RRset:
    """Names in records are absolute, with or without a trailing dot; one TTL counts for all (RFC 2181 5.2)."""
    rdatas = [dns.rdata.from_text("IN", rdtype, text, origin=dns.name.root, relativize=False) for _, text in records]
    return dns.rrset.from_rdata_list(f"{name}.", min(ttl for ttl, _ in records), rdatas)


def _spoil(response: dns.message.Message, fault: Fault | None, room: int) -> bytes:
    """Encode for UDP, with what is to go wrong."""
    if fault is Fault.WRONG_ID:
        response.id ^= 0x5555
    if fault is Fault.WRONG_QUESTION:
        response.question[0] = dns.rrset.from_text("other.invalid.", 0, "IN", "A")
    if fault is Fault.TRUNCATE:
        response.answer.clear()
        response.flags |= dns.flags.TC
    try:
        octets = response.to_wire(max_size=max(room, 512), want_shuffle=False)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        octets = response.to_wire(max_size=max(room, 512), want_shuffle=False)
    if fault is Fault.GARBAGE:
        end = octets.index(b"\0", 12) + 5
        octets = octets[:6] + b"\0\1\0\0\0\0" + octets[12:end] + b"\xc0\xff\xff"
    return octets


class _UdpDoor(asyncio.DatagramProtocol):
    """Answers datagrams."""

    def __init__(self, server: ScriptedDns) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # neither loop's own class derives from it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None, "connected first"
        answer = self._server.answer(data, over_tcp=False)
        if answer is not None:
            self._transport.sendto(answer, addr)
