# SPDX-License-Identifier: MIT
"""Liars: whatever comes to a question that is not its answer is neither believed nor an exception."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import dns.message
import dns.rrset
import pytest
from tests.backends.dns.rig import BOTH_LOOPS, FOUND, NODATA, SERVFAIL, SHORT, TIMEOUT, Rig, Runner, on_both_loops

from smarthost.backends.dns import DnsResolver
from smarthost.backends.dns.resolver import Patience
from smarthost.ports import Answer, MxRecord
from smarthost.testing.clock import FakeClock
from smarthost.testing.dns import Fault, ScriptedDns, Zone

TRUTH, LIE = "192.0.2.1", "203.0.113.66"
ONCE = Patience(try_s=2.0, rounds=1, total_s=4.0)
Message = dns.message.Message


def answer_to(query: bytes, address: str, owner: str = "a.example") -> Message:
    """Give an answer that would be believed."""
    made = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    made.answer.append(dns.rrset.from_text(f"{owner}.", 300, "IN", "A", address))
    return made


class Mouth(asyncio.DatagramProtocol):
    """Sends what `words` makes of each query to whoever asked; never takes part otherwise."""

    def __init__(self, words: Callable[[bytes], Sequence[bytes]]) -> None:
        self.words = words
        self.heard: list[tuple[str, int]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(addr)
        for word in self.words(data):
            self.transport.sendto(word, addr)


async def mouth(words: Callable[[bytes], Sequence[bytes]], host: str = "127.0.0.1") -> tuple[Mouth, tuple[str, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Mouth(words), local_addr=(host, 0))
    return protocol, transport.get_extra_info("sockname")[:2]


async def ask(server: tuple[str, int], patience: Patience = ONCE) -> Answer:
    resolver = DnsResolver(FakeClock(), [server], patience)
    try:
        return await resolver.ask("a.example", "A")
    finally:
        resolver.close()
        await asyncio.sleep(0)


def with_id(message: bytes, id: int) -> bytes:
    return id.to_bytes(2, "big") + message[2:]


def lie(query: bytes) -> bytes:
    return answer_to(query, LIE).to_wire()


def about_another_name(query: bytes) -> bytes:
    made = answer_to(query, LIE)
    made.question[0] = dns.rrset.from_text("b.example.", 0, "IN", "A")
    return made.to_wire()


def about_another_type(query: bytes) -> bytes:
    return lie(query).replace(b"example\0\0\1\0\1", b"example\0\0\x1c\0\1", 1)


LIES: dict[str, Callable[[bytes], bytes]] = {
    "another id": lambda query: with_id(lie(query), int.from_bytes(query[:2], "big") ^ 1),
    "another name": about_another_name,
    "another type": about_another_type,
    "the query itself": lambda query: query,
    "a query with an answer": lambda query: lie(query)[:2] + b"\1\0" + lie(query)[4:],
    "another opcode": lambda query: lie(query)[:2] + b"\xa1\x80" + lie(query)[4:],
    "two questions": lambda query: query[:2] + b"\x81\x80\0\2\0\0\0\0\0\0" + query[12:27] * 2,
    "no question": lambda query: query[:2] + b"\x81\x80\0\0\0\0\0\0\0\0",
    "NXDOMAIN without question": lambda query: query[:2] + b"\x81\x83\0\0\0\0\0\0\0\0",
    "an id alone": lambda query: query[:2],
    "nothing": lambda _: b"",
    "an octet": lambda _: b"\xff",
    "half a header": lambda query: lie(query)[:11],
}


@BOTH_LOOPS
@pytest.mark.parametrize("kind", LIES)
def test_lie_before_the_truth_is_passed_over(kind: str, run: Runner) -> None:
    """Datagrams from the server's own address that are no answers to the question do not end it."""

    async def main() -> None:
        server, at = await mouth(lambda query: [LIES[kind](query), answer_to(query, TRUTH).to_wire()])

        answer = await ask(at)
        server.transport.close()

        assert (answer.status, answer.addresses) == (FOUND, (TRUTH,))

    run(main())


@BOTH_LOOPS
@pytest.mark.parametrize(("host", "is_believed"), [("127.0.0.1", False), ("127.0.0.2", False), ("", True)])
def test_answer_from_another_socket_is_dropped(host: str, is_believed: bool, run: Runner) -> None:
    """A forger who knows id, name and our port, but sends from another port or address, is not heard at all.

    The last case is the control: the same octets in the same order from the server's own socket are believed.
    """

    async def main() -> None:
        forger, _ = await mouth(lambda _: [], host=host or "127.0.0.1")
        server, at = await mouth(lambda query: [answer_to(query, TRUTH).to_wire()])

        def forge_first(query: bytes) -> Sequence[bytes]:
            by = forger.transport if host else server.transport
            by.sendto(lie(query), server.heard[-1])
            return [answer_to(query, TRUTH).to_wire()]

        server.words = forge_first
        answer = await ask(at)
        forger.transport.close()
        server.transport.close()

        assert answer.addresses == ((LIE,) if is_believed else (TRUTH,))

    run(main())


@BOTH_LOOPS
def test_answer_that_comes_after_its_question_ended_harms_nobody(run: Runner) -> None:
    """The next question has another id, and the late answer none."""

    async def main() -> None:
        late: list[bytes] = []

        def words(query: bytes) -> Sequence[bytes]:
            late.append(lie(query))
            return late[:-1] + ([answer_to(query, TRUTH).to_wire()] if len(late) > 1 else [])

        server, at = await mouth(words)
        answer = await ask(at, Patience(try_s=0.05, rounds=40, total_s=5))
        server.transport.close()

        assert answer.addresses == (TRUTH,)

    run(main())


@BOTH_LOOPS
def test_port_that_brought_no_answer_is_not_used_again(run: Runner) -> None:
    """A machine that has lost the address a socket is bound to (a laptop) asks from another socket."""

    async def main() -> None:
        server, at = await mouth(lambda _: [])

        await ask(at, Patience(try_s=0.02, rounds=8, total_s=5))
        server.transport.close()

        assert len(server.heard) == 8
        assert len(set(server.heard)) == 8

    run(main())


def test_records_for_other_names_are_not_believed() -> None:
    """What a server adds unasked is not an answer, and is not kept for the name it is about."""

    class Adding(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            asked = dns.message.from_wire(message).question[0].name.to_text()
            return answer_to(message, LIE, owner="victim.example").to_wire() if asked == "a.example." else None

    @on_both_loops(Zone, Patience(try_s=0.05, rounds=1, total_s=1), server=Adding)
    async def scenario(rig: Rig) -> None:
        assert (await rig.ask("a.example")).status is NODATA
        assert (await rig.ask("victim.example")).status is TIMEOUT

    scenario(asyncio.run)


# over TCP


def truth_over_tcp(query: bytes) -> bytes:
    return answer_to(query, TRUTH).to_wire()


TCP: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another id": (LIES["another id"], "the tcp answer belongs to another question"),
    "another name": (about_another_name, "the tcp answer belongs to another question"),
    "the query itself": (lambda query: query, "the tcp answer belongs to another question"),
    "nothing": (lambda _: b"", "the tcp answer belongs to another question"),
    "garbage": (lambda query: lie(query)[:-3], "no DNS message"),
    "all octets": (lambda query: query[:2] + bytes(range(256)) * 200, "the tcp answer belongs to another question"),
}


@pytest.mark.parametrize("kind", TCP)
def test_lie_over_tcp_is_a_failure_of_the_server(kind: str) -> None:
    """What comes over TCP must belong to the question, too; it is not waited for a better one."""
    octets, why = TCP[kind]

    class Lying(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            return octets(message) if over_tcp else super().answer(message, over_tcp=False)

    @on_both_loops(lambda: Zone({"a.example": f"A {TRUTH}"}, faults={"a.example": Fault.TRUNCATE}), ONCE, server=Lying)
    async def scenario(rig: Rig) -> None:
        answer = await rig.ask("a.example")

        assert (answer.status, answer.addresses) == (TIMEOUT, ())
        assert why in answer.detail
        assert rig.where in answer.detail

    scenario(asyncio.run)


class Deaf(ScriptedDns):
    """Says TC over UDP and nothing over TCP."""

    unheard = 0

    def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
        self.unheard += over_tcp
        return None if over_tcp else super().answer(message, over_tcp=False)


@on_both_loops(lambda: Zone(faults={"a.example": Fault.TRUNCATE}), ONCE, server=Deaf)
async def test_server_that_hangs_up_over_tcp_is_named(rig: Rig) -> None:
    """Truncated over UDP and nothing over TCP: the middlebox that ate it is what the record must tell of."""
    asking = asyncio.ensure_future(rig.ask("a.example"))
    assert isinstance(rig.dns, Deaf)
    while not rig.dns.unheard:  # closed with the question unread, the connection would be reset
        await asyncio.sleep(0.001)
    for connection in rig.dns._connections:
        connection.cancel()

    answer = await asking

    assert answer.status is TIMEOUT
    assert answer.detail == f"no answer from {rig.where}: the server closed the tcp connection early"


@on_both_loops(lambda: Zone(faults={"a.example": Fault.TRUNCATE}), SHORT, server=Deaf)
async def test_silence_over_tcp_ends_with_the_time_of_the_try(rig: Rig) -> None:
    """One limit for UDP and TCP together."""
    async with asyncio.timeout(5):
        answer = await rig.ask("a.example")

    assert (answer.status, answer.detail) == (TIMEOUT, f"no answer from {rig.where} within 0.03 s")


def large(query: bytes, records: int) -> bytes:
    """Give an answer with so many exchangers, 16 octets each: 4,090 of them are 64 KiB."""
    one = b"\xc0\x0c\0\x0f\0\1\0\0\1\x2c\0\4"
    mx = [one + n.to_bytes(2, "big") + b"\xc0\x0c" for n in range(records)]
    return query[:2] + b"\x81\x80\0\1" + records.to_bytes(2, "big") + bytes(4) + query[12:-11] + b"".join(mx)


def truncated(query: bytes) -> bytes:
    return query[:2] + b"\x83\x80\0\1" + bytes(6) + query[12:-11]


def test_set_too_large_for_dns_is_a_failure_that_says_so() -> None:
    """5,000 exchangers fit into no message: what a server leaves of them is not "no exchangers"."""

    class Overfull(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            assert len(large(message, 5000)) > 65_535
            return truncated(message)

    @on_both_loops(Zone, ONCE, server=Overfull)
    async def scenario(rig: Rig) -> None:
        answer = await rig.ask("big.example", "MX")

        assert (answer.status, answer.detail) == (SERVFAIL, f"an answer too large for DNS from {rig.where}")

    scenario(asyncio.run)


@BOTH_LOOPS
def test_largest_message_dns_can_hold_is_read(run: Runner) -> None:
    """Truncated over UDP, 64 KiB over TCP, the best hundred records."""

    class Large(ScriptedDns):
        def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
            return large(message, 4090) if over_tcp else truncated(message)

    @on_both_loops(Zone, ONCE, server=Large)
    async def scenario(rig: Rig) -> None:
        answer = await rig.ask("big.example", "MX")

        assert answer.status is FOUND
        assert answer.mx == tuple(MxRecord(n, "big.example") for n in range(100))
        assert answer.detail == "first 100 of 4090 records"

    scenario(run)
