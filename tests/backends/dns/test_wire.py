# SPDX-License-Identifier: MIT
"""The reader of DNS messages: it reads what dnspython reads, and no octets make it slow or wild."""

import struct
import time
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.backends.dns import wire
from smarthost.backends.dns.codec import Unable, decode_answer, encode_question
from smarthost.backends.dns.wire import name_text, read_name
from smarthost.ports import Answer, AnswerStatus, MxRecord

MOST_CPU_S = 0.030  # of a loop that serves thousands of sessions: the worst takes 3 ms here, 10 on the same box if busy
POINTER = b"\xc0\x0c"  # to the question's name
OURS = "big.example"


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner: bytes, rdtype: int, rdata: bytes, ttl: int = 300) -> bytes:
    return owner + struct.pack("!HHIH", rdtype, 1, ttl, len(rdata)) + rdata


def mx(preference: int, exchange: bytes, owner: bytes = POINTER) -> bytes:
    return record(owner, wire.MX, struct.pack("!H", preference) + exchange)


def message(
    answer: Sequence[bytes] = (), authority: Sequence[bytes] = (), additional: Sequence[bytes] = (), rdtype: str = "MX"
) -> bytes:
    counts = struct.pack("!HHHHHH", 7, 0x8180, 1, len(answer), len(authority), len(additional))
    return counts + encode_question(OURS, rdtype) + b"".join([*answer, *authority, *additional])


def read(octets: bytes, rdtype: str = "MX") -> Answer:
    answer = decode_answer(OURS, rdtype, octets, trust_ad=False)
    assert isinstance(answer, Answer)
    return answer


# names


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((), ""),
        ((b"MX1", b"Example"), "mx1.example"),
        ((b"_dmarc", b"a-b", b"x"), "_dmarc.a-b.x"),
        ((b"a.b", b"example"), "a\\.b.example"),
        ((b"a b", b"example"), "a\\032b.example"),
        ((b"\0", b"example"), "\\000.example"),
        ((b"\xff\x7f", b"example"), "\\255\\127.example"),
        ((b"B\xc3\xbccher",), "b\\195\\188cher"),
        ((b'"();\\@$',), '\\"\\(\\)\\;\\\\\\@\\$'),
        ((b".",), "\\."),
        ((b"localhost",), "localhost"),
        ((b"192", b"0", b"2", b"1"), "192.0.2.1"),
        ((b"x" * 63,) * 3 + (b"y" * 61,), ".".join(["x" * 63] * 3 + ["y" * 61])),
    ],
)
def test_names_become_text_as_dns_writes_it(labels: tuple[bytes, ...], text: str) -> None:
    """Lower case; what no host's name has is escaped, so that it is one nowhere; 255 octets and no more."""
    octets = name(*labels)

    read_labels, after = read_name(octets, 0)

    assert name_text(read_labels) == text
    assert after == len(octets)
    plain = dns.name.from_wire(octets, 0)[0]
    assert text == ("" if plain == dns.name.root else plain.to_text(omit_final_dot=True).lower())


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\5exam",
        b"\5exampl",
        b"\xc0",
        b"\xc0\0",
        b"\xc0\2\xc0\0",
        b"\x40a\0",
        b"\x80a\0",
        name(*[b"x" * 63] * 4),
        b"\xc0\2\1a\0",
        b"\0" + b"".join(struct.pack("!H", 0xC000 | max(0, 2 * n - 1)) for n in range(170)),
    ],
    ids=["empty", "cut", "no end", "half", "itself", "loop", "type 1", "type 2", "256 octets", "forward", "on and on"],
)
def test_names_that_are_none(octets: bytes) -> None:
    """Cut off, too long, pointing to themselves, forward, or on and on."""
    at = len(octets) - 2 if len(octets) > 2 and octets[0] == 0 else 0
    with pytest.raises((ValueError, IndexError)):
        read_name(octets, at)


_LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=6).map(tuple)


@given(_LABELS)
def test_every_name_reads_as_dnspython_reads_it(labels: tuple[bytes, ...]) -> None:
    """Whatever octets are in it."""
    octets = name(*labels)

    assert read_name(octets, 0)[0] == tuple(label.lower() for label in dns.name.from_wire(octets, 0)[0].labels[:-1])


_HOSTS = st.sampled_from(["big.example.", "A.big.example.", "b.EXAMPLE.", "c.example.net.", "x\\032y.example."])
_TEXTS = {
    "MX": st.tuples(st.integers(0, 3), _HOSTS).map(lambda each: f"{each[0]} {each[1]}"),
    "A": st.integers(0, 3).map(lambda n: f"192.0.2.{n}"),
    "AAAA": st.sampled_from(["::", "::1", "2001:db8:0:1::", "2001:db8::1:0:0:1", "1:2:3:4:5:6:7:8", "fe80::1:0"]),
    "CNAME": _HOSTS,
    "TXT": st.just("hello"),
}
_RECORDS = st.sampled_from(sorted(_TEXTS)).flatmap(
    lambda rdtype: st.tuples(_HOSTS, st.integers(0, 2**31 - 1), st.just(rdtype), _TEXTS[rdtype])
)


def _by_dnspython(parsed: dns.message.Message, rdtype: str) -> tuple[AnswerStatus, list[str], list[str]]:
    """What dnspython's reading of a message says to the question, by the simplest means."""
    here, wanted = dns.name.from_text(OURS), dns.rdatatype.from_text(rdtype)
    passed: list[str] = []
    while True:
        sets = {each.rdtype: each for each in parsed.answer if each.name == here}
        if wanted in sets:
            return AnswerStatus.FOUND, [text.lower() for text in map(str, sets[wanted])], passed
        if dns.rdatatype.CNAME not in sets:
            return AnswerStatus.NODATA, [], passed
        passed.append(here.to_text(omit_final_dot=True).lower())
        here = sets[dns.rdatatype.CNAME][0].target
        if here.to_text(omit_final_dot=True).lower() in passed:
            return AnswerStatus.SERVFAIL, [], passed


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(_RECORDS, max_size=8), st.sampled_from(["MX", "A", "AAAA"]))
def test_messages_say_what_they_say_to_dnspython(records: list[tuple[str, int, str, str]], rdtype: str) -> None:
    """Compressed names, alias chains and loops, repeated records, other types and owners: two readers, one answer."""
    query = dns.message.make_query(OURS, rdtype)
    made = dns.message.make_response(query, recursion_available=True)
    for owner, ttl, kind, text in records:
        rdata = dns.rdata.from_text("IN", kind, text, origin=dns.name.root, relativize=False)
        made.find_rrset(made.answer, dns.name.from_text(owner), rdata.rdclass, rdata.rdtype, create=True).add(
            rdata, ttl
        )
    octets = made.to_wire(want_shuffle=False)

    answer = read(octets, rdtype)

    status, texts, passed = _by_dnspython(dns.message.from_wire(octets), rdtype)
    assert (answer.status, list(answer.aliases)) == (status, passed)
    assert [f"{each.preference} {each.exchange}." for each in answer.mx] + list(answer.addresses) == texts


# absurd sets


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (bytes(15) + b"\1", "::1"),
        (bytes(10) + b"\xff\xff\xc0\0\2\1", "::ffff:192.0.2.1"),
        (b"\x20\1\x0d\xb8" + bytes(12), "2001:db8::"),
    ],
)
def test_ipv6_addresses_are_in_canonical_text(address: bytes, text: str) -> None:
    """RFC 5952: one address, one text."""
    assert read(message([record(POINTER, wire.AAAA, address)], rdtype="AAAA"), "AAAA").addresses == (text,)


@pytest.mark.parametrize(
    "octets",
    [
        message([record(POINTER, wire.A, b"\1\2\3")], rdtype="A"),
        message([record(POINTER, wire.A, b"\1\2\3\4\5")], rdtype="A"),
        message([record(POINTER, wire.A, b"\1\2\3\4")], rdtype="A")[:-1],
        message([], [record(b"\0", wire.SOA, b"\0\0")], rdtype="A"),
        message([record(POINTER, wire.CNAME, name(b"x") + b"\0")], rdtype="A"),
        message(rdtype="A").replace(b"\0\1\0\0\0\0\0\0", b"\0\1\0\1\0\0\0\0", 1),
    ],
    ids=["short", "long", "cut", "SOA", "alias", "counted but not there"],
)
def test_records_that_are_none_are_no_message(octets: bytes) -> None:
    """One wrong record makes all of the message doubtful."""
    with pytest.raises(ValueError, match="no DNS message"):
        read(octets, "A")


@pytest.mark.parametrize("rdata", [b"", b"\0", b"\0\1", b"\0\1\1a", b"\0\1\1a\0\0", b"\0\1\xc0\xff"])
def test_exchangers_that_are_none_are_no_message(rdata: bytes) -> None:
    """Too short, too long, or pointing into nowhere."""
    with pytest.raises(ValueError, match="no DNS message"):
        read(message([record(POINTER, wire.MX, rdata)]))


def test_strange_exchanges_come_as_they_are() -> None:
    """The reader judges nobody: routing drops "localhost", addresses and what is no host's name."""
    exchanges = [name(b"localhost"), name(b"192", b"0", b"2", b"1"), b"\0", name(b"a\0b", b"x"), name(b"\xe9.", b"x")]

    answer = read(message([mx(n, exchange) for n, exchange in enumerate(exchanges)]))

    assert answer.mx == (
        MxRecord(0, "localhost"),
        MxRecord(1, "192.0.2.1"),
        MxRecord(2, ""),
        MxRecord(3, "a\\000b.x"),
        MxRecord(4, "\\233\\..x"),
    )


def test_record_of_one_section_is_not_taken_for_one_of_another() -> None:
    """An answer's 101st record is not the EDNS record."""
    answers = [mx(n, name(b"m%d" % n)) for n in range(100)] + [record(b"\0", wire.OPT, b"", ttl=1 << 24)] * 3
    octets = message(answers, [], [record(b"\0", wire.A, b"\1\2\3\4")])

    assert len(read(octets).mx) == 100


@pytest.mark.parametrize("position", [0, 99, 100, 2999])
def test_best_hundred_exchangers_are_read_wherever_they_stand(position: int) -> None:
    """A hundred useless records before the good one do not make mail bounce; the answer says that it was cut."""
    records = [mx(20, b"\1m" + POINTER)] + [mx(10_000 + n, name(b"m%d" % n)) for n in range(2999)]
    records[0], records[position] = records[position], records[0]

    answer = read(message(records))

    assert MxRecord(20, "m.big.example") in answer.mx
    assert (len(answer.mx), answer.is_cut, answer.detail) == (100, True, "first 100 of 3000 records")


def test_hundred_exchangers_are_not_cut() -> None:
    """All of them are there, in the order of the answer, even if some were said many times."""
    records = [mx(n, name(b"m%d" % n)) for n in reversed(range(100))]

    answers = [read(message(records)), read(message(records * 9))]

    assert [(each.is_cut, each.detail) for each in answers] == [(False, "")] * 2
    assert [each.preference for each in answers[0].mx] == list(reversed(range(100)))
    assert answers[0].mx == answers[1].mx


def test_alias_after_a_hundred_records_of_its_target_is_followed() -> None:
    """The order of records in an answer says nothing."""
    target = name(b"target", b"example")
    records = [record(target, wire.A, struct.pack("!I", n)) for n in range(300)]

    answer = read(message([*records, record(POINTER, wire.CNAME, target)], rdtype="A"), "A")

    assert (answer.status, len(answer.addresses), answer.is_cut) == (AnswerStatus.FOUND, 100, True)
    assert answer.aliases == (OURS,)


@pytest.mark.parametrize("flags", [0x8180, 0x8183], ids=["NOERROR", "NXDOMAIN"])
def test_what_was_not_read_is_not_told_to_be_missing(flags: int) -> None:
    """Records of a hundred other names, then who knows: neither "no exchangers" nor "no such name"."""
    strange = [mx(n, b"\0", owner=name(b"o%d" % n)) for n in range(100)]
    octets = [message([*strange, *more]) for more in ([], [mx(5, b"\1m" + POINTER)])]
    whole, cut = [
        decode_answer(OURS, "MX", each[:2] + struct.pack("!H", flags) + each[4:], trust_ad=False) for each in octets
    ]

    assert isinstance(whole, Answer)
    assert (whole.is_cut, whole.mx) == (False, ())
    assert cut == Unable("more than 100 names in an answer")


def test_repeated_records_count_once() -> None:
    """A set has no member twice; its TTL is the least of its records' (RFC 2181 5)."""
    octets = message([mx(10, name(b"m")), mx(10, name(b"M")), record(POINTER, wire.MX, b"\0\0\0", ttl=7)])

    answer = read(octets)

    assert (answer.mx, answer.ttl_s) == ((MxRecord(10, "m"), MxRecord(0, "")), 7)


def _chains_of_pointers() -> bytes:
    """Every owner and exchange is 126 labels behind 32 pointers, in 16 octets each."""
    start = len(message()) + 11
    farm = b"\1a" * 94 + b"\0"
    last = start
    for _ in range(31):
        last, farm = start + len(farm), farm + b"\1b" + struct.pack("!H", 0xC000 | last)
    far = struct.pack("!H", 0xC000 | last)
    return message([record(b"\0", 16, farm), *[mx(n, b"\1c" + far, owner=far) for n in range(3500)]])


_ODD = [name(b"\0\0%05d" % n + b"\xff" * 54, *[b"\xc8" * 61] * 3) for n in range(100)]
_MANY = [name(*[b"\xff"] * 124, b"%d" % (n % 10)) for n in range(240)]
_HUGE = {
    "3,600 MX": (message([mx(n, b"\1m" + POINTER) for n in range(3600)]), 100),
    "255-octet names of escapes": (message([mx(n, _ODD[n % 100]) for n in range(230)]), 100),
    "names of 125 labels": (message([mx(n, each) for n, each in enumerate(_MANY)]), 100),
    "owners of 125 labels": (message([mx(n, each, owner=each) for n, each in enumerate(_MANY[:120])]), 0),
    "chains of pointers": (_chains_of_pointers(), 0),
    "owners without end": (message([mx(n, b"\0", owner=b"\0" if n % 2 else POINTER) for n in range(4500)]), 100),
    "alike but for case": (message([mx(7, b"\1m" + POINTER, owner=POINTER)] * 3600), 1),
    "no names at all": (message([record(b"\0", wire.A, b"")] * 5950), 0),
    "authority": (message([mx(0, b"\0")], [record(b"\0", wire.NS, name(b"n%d" % n)) for n in range(3000)]), 1),
    "additional": (message([mx(0, b"\0")], [], [record(b"\0", wire.A, struct.pack("!I", n)) for n in range(4000)]), 1),
}


@pytest.mark.parametrize("kind", _HUGE)
def test_absurd_answers_cost_milliseconds(kind: str) -> None:
    """64 KiB of whatever a stranger's zone holds do not stop the loop; the best hundred records count."""
    octets, records = _HUGE[kind]
    assert len(octets) <= 65_535
    taken = []

    for _ in range(5):
        started = time.process_time()
        answer = read(octets)
        taken.append(time.process_time() - started)

    assert len(answer.mx) == records
    assert min(taken) < MOST_CPU_S


@given(st.binary(max_size=120), st.binary(max_size=40), st.integers(0, 200))
def test_any_farm_of_octets_ends_in_an_answer_or_no_message(farm: bytes, rdata: bytes, at: int) -> None:
    """Pointers into octets that are no names, lengths that lie: a value or a ValueError, nothing else."""
    octets = message([record(b"\0", 16, farm), mx(1, rdata, owner=struct.pack("!H", 0xC000 | at))])
    try:
        said = decode_answer(OURS, "MX", octets, trust_ad=True)
    except ValueError:
        return
    assert isinstance(said, Answer | Unable)
