# SPDX-License-Identifier: MIT
"""Octets to Answers: any octets end in an Answer or a ValueError, and only our own question's answer counts."""

import contextlib
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.edns import EDECode, EDEOption
from hypothesis import given
from hypothesis import strategies as st

from smarthost.backends.dns.codec import (
    Unable,
    belongs_to,
    decode_answer,
    encode_query,
    encode_question,
    is_truncated,
)
from smarthost.ports import Answer, AnswerStatus

QUESTION = encode_question("example.org", "MX")


def response(*answers: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0, recurses: bool = True) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(encode_query(7, QUESTION)), recursion_available=recurses)
    message.set_rcode(rcode)
    message.flags |= flags
    for text in answers:
        name, ttl, kind, rdtype, rdata = text.split(" ", 4)
        message.answer.append(dns.rrset.from_text(name, int(ttl), kind, rdtype, rdata))
    return message.to_wire()


def read(message: bytes) -> Answer:
    answer = decode_answer("example.org", "MX", message, trust_ad=False)
    assert isinstance(answer, Answer)
    return answer


def test_query_is_what_dnspython_reads() -> None:
    """One question, recursion desired, AD asked for, EDNS with a payload that needs no fragments."""
    query = dns.message.from_wire(encode_query(0xABCD, QUESTION))

    assert query.id == 0xABCD
    assert query.flags == dns.flags.RD | dns.flags.AD
    assert query.question[0].to_text() == "example.org. IN MX"
    assert (query.edns, query.payload) == (0, 1232)
    assert dns.message.from_wire(encode_query(7, QUESTION, with_edns=False)).edns == -1


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, "a." * 127 + "bc", "é.example"])
def test_what_dns_cannot_hold_is_no_question(name: str) -> None:
    """Empty labels, too long ones, too long names and what is not ASCII."""
    with pytest.raises(ValueError, match=r"question"):
        encode_question(name, "A")


def test_backslash_and_at_sign_are_plain_octets() -> None:
    """A name is not zone file text: nothing is an escape."""
    assert encode_question("a\\.@", "A")[:5] == b"\x02a\\\x01@"


@pytest.mark.parametrize(
    ("message", "belongs"),
    [
        (response(), True),
        (response().replace(b"example", b"EXAMPLE", 1), True),
        (response(rcode=dns.rcode.SERVFAIL), True),
        (encode_query(7, QUESTION), False),
        (response().replace(b"\x81", b"\xa1", 1), False),
        (response()[:12], False),
        (response()[:11], False),
        (response().replace(b"example", b"examplf", 1), False),
        (response().replace(b"\x00\x0f\x00\x01", b"\x00\x01\x00\x01", 1), False),
        *[(bytes([0, 7, 0x81, 0x80 | rcode]) + bytes(8), rcode in (1, 2, 4, 5)) for rcode in range(16)],
        (b"\0\7\x81\x80\0\2\0\0\0\0\0\0" + QUESTION + QUESTION, False),
        (b"", False),
    ],
)
def test_only_answers_to_our_question_belong_to_it(message: bytes, belongs: bool) -> None:
    """A response with our question, whatever its case, or a server's word about itself without any; nothing else."""
    assert belongs_to(message, QUESTION) is belongs


def test_truncation_is_seen() -> None:
    """TC means that the whole answer is elsewhere."""
    assert is_truncated(response(flags=dns.flags.TC))
    assert not is_truncated(response())


def test_records_for_other_names_do_not_count() -> None:
    """What a server adds unasked is not believed."""
    answer = read(response("other.org. 5 IN MX 10 evil.example."))

    assert (answer.status, answer.mx) == (AnswerStatus.NODATA, ())


def test_records_of_another_class_do_not_count() -> None:
    """Chaosnet has no exchangers."""
    answer = read(response("example.org. 5 CH MX 10 evil.example."))

    assert answer.status is AnswerStatus.NODATA


def test_negative_answer_without_soa_is_not_kept() -> None:
    """RFC 2308 5: no SOA, no negative caching."""
    assert read(response()).ttl_s == 0


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("example.org. 5 IN MX 10 m.example.",), Unable("NXDOMAIN with records")),
        (("example.org. 5 IN CNAME x.example.", "x.example. 5 IN MX 0 m.example."), Unable("NXDOMAIN with records")),
        (("example.org. 5 IN CNAME x.example.",), AnswerStatus.NXDOMAIN),
        (("other.example. 5 IN MX 10 m.example.",), AnswerStatus.NXDOMAIN),
    ],
)
def test_server_that_contradicts_itself_cannot_tell(answers: tuple[str, ...], said: Unable | AnswerStatus) -> None:
    """No mail bounces because a name has exchangers and does not exist, in one answer."""
    answer = decode_answer("example.org", "MX", response(*answers, rcode=dns.rcode.NXDOMAIN), trust_ad=False)

    assert (answer if isinstance(answer, Unable) else answer.status) == said


def test_alias_beside_a_record_gives_way_to_it() -> None:
    """A broken zone with both is read as the record it has."""
    message = response("example.org. 5 IN CNAME x.example.", "example.org. 5 IN MX 10 m.example.")

    answer = read(message)

    assert (answer.status, answer.aliases) == (AnswerStatus.FOUND, ())


def test_servfail_is_a_word_about_the_name() -> None:
    """The resolver tried, and the name is broken."""
    said = decode_answer("example.org", "MX", response(rcode=dns.rcode.SERVFAIL), trust_ad=False)

    assert isinstance(said, Answer)
    assert (said.status, said.detail) == (AnswerStatus.SERVFAIL, "SERVFAIL")


@pytest.mark.parametrize(
    ("rcode", "unable"),
    [
        (dns.rcode.REFUSED, Unable("lame: REFUSED")),
        (dns.rcode.FORMERR, Unable("FORMERR", may_lack_edns=True)),
        (dns.rcode.NOTIMP, Unable("NOTIMP", may_lack_edns=True)),
        (dns.rcode.BADVERS, Unable("BADVERS", may_lack_edns=True)),
        (dns.rcode.NOTZONE, Unable("RCODE 10")),
    ],
)
def test_every_other_rcode_is_a_failure_of_the_server_by_name(rcode: dns.rcode.Rcode, unable: Unable) -> None:
    """What is neither an answer nor a word about the name says that this server is of no use."""
    assert decode_answer("example.org", "MX", response(rcode=rcode), trust_ad=False) == unable


def test_reason_of_a_failure_is_told_in_the_resolvers_words() -> None:
    """RFC 8914: bogus signatures and blocked names have names; control characters do not get into logs."""
    message = dns.message.make_response(dns.message.from_wire(encode_query(7, QUESTION)))
    message.set_rcode(dns.rcode.SERVFAIL)
    message.use_edns(0, options=[EDEOption("DNSSEC_BOGUS", "no\r\nsignature"), EDEOption(EDECode.make(999))])

    said = decode_answer("example.org", "MX", message.to_wire(), trust_ad=False)

    assert isinstance(said, Answer)
    assert said.detail == "SERVFAIL, EDE 6 (DNSSEC Bogus): nosignature, EDE 999"


def test_only_three_reasons_are_read() -> None:
    """An EDNS record of 64 KiB of reasons costs no more than three."""
    reason = struct.pack("!HHH", 15, 2, 6)
    opt = struct.pack("!BHHIH", 0, 41, 1232, 0, 6 * 4) + reason * 3 + b"\0\x0f\0\xff\0\6"

    said = decode_answer("example.org", "MX", b"\0\7\x81\x82\0\1\0\0\0\0\0\1" + QUESTION + opt, trust_ad=False)

    assert isinstance(said, Answer)
    assert said.detail == "SERVFAIL" + ", EDE 6 (DNSSEC Bogus)" * 3


def referral(*authority: str, aliases: tuple[str, ...] = (), flags: int = 0, recurses: bool = True) -> bytes:
    message = dns.message.from_wire(response(*aliases, flags=flags, recurses=recurses))
    for text in authority:
        name, ttl, kind, rdtype, rdata = text.split(" ", 4)
        message.authority.append(dns.rrset.from_text(name, int(ttl), kind, rdtype, rdata))
    return message.to_wire()


_NS, _SOA = "org. 300 IN NS ns.org.", "org. 300 IN SOA ns.org. h.org. 1 2 3 4 50"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (referral(_NS), "lame: a referral"),
        (referral(". 300 IN NS a.root-servers.net."), "lame: a referral"),
        (referral(), AnswerStatus.NODATA),
        (referral(_SOA), AnswerStatus.NODATA),
        (referral(_SOA, _NS), AnswerStatus.NODATA),
        (referral(_NS, aliases=("example.org. 5 IN CNAME x.example.",)), AnswerStatus.NODATA),
        (referral(_NS, aliases=("example.org. 5 IN MX 0 .",)), AnswerStatus.FOUND),
        (referral(recurses=False), "lame: no recursion"),
        (referral(_NS, recurses=False), "lame: a referral"),
        (referral(_SOA, recurses=False), AnswerStatus.NODATA),
        (referral(flags=dns.flags.AA, recurses=False), AnswerStatus.NODATA),
        (referral(aliases=("other.example. 5 IN MX 0 .",), recurses=False), "lame: no recursion"),
        (referral(aliases=("example.org. 5 IN CNAME x.example.",), recurses=False), AnswerStatus.NODATA),
        (referral(aliases=("example.org. 5 IN MX 0 .",), recurses=False), AnswerStatus.FOUND),
    ],
    ids=[
        "referral",
        "upward",
        "no authority",
        "SOA",
        "SOA and NS",
        "open alias",
        "records",
        "no recursion",
        "referral without recursion",
        "SOA without recursion",
        "authoritative",
        "strange records",
        "open alias without recursion",
        "records without recursion",
    ],
)
def test_referral_is_told_from_no_records(message: bytes, said: str | AnswerStatus) -> None:
    """RFC 2308 2.2: name servers and no SOA: this server does not ask them for us. An alias may be asked on.

    Nor does one that says so, and has nothing.
    """
    answer = decode_answer("example.org", "MX", message, trust_ad=False)

    assert (answer.why if isinstance(answer, Unable) else answer.status) == said


@pytest.mark.parametrize(
    ("ttl", "minimum", "ttl_s"),
    [
        (40, 300, 40),
        (300, 40, 40),
        (0, 300, 0),
        (300, 0, 0),
        (2**31, 300, 0),
        (300, 2**31, 0),
        (2**31 - 1, 2**32 - 1, 0),
    ],
)
def test_negative_ttl_is_the_lesser_of_the_soas_own_and_its_minimum(ttl: int, minimum: int, ttl_s: int) -> None:
    """RFC 2308 5; and what has its highest bit set counts as 0 (RFC 2181 8)."""
    soa = struct.pack("!BHHIH", 0, 6, 1, ttl, 22) + b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, minimum)
    message = b"\0\7\x81\x80\0\1\0\0\0\1\0\0" + QUESTION + soa

    assert read(message).ttl_s == ttl_s


@pytest.mark.parametrize(("ttl", "ttl_s"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)])
def test_ttl_with_its_highest_bit_set_counts_as_0(ttl: int, ttl_s: int) -> None:
    """RFC 2181 8."""
    message = response("example.org. 60 IN MX 0 .").replace(struct.pack("!I", 60), struct.pack("!I", ttl))

    assert read(message).ttl_s == ttl_s


def test_truncated_answer_without_records_is_not_no_records() -> None:
    """Over TCP there is nowhere left to ask: what is missing is not there to be believed."""
    said = decode_answer("example.org", "MX", response(flags=dns.flags.TC), trust_ad=False)

    assert said == Unable("an answer too large for DNS")


_FULL = response(
    "example.org. 60 IN CNAME real.example.", "real.example. 60 IN MX 10 m.example.", "m.example. 1 IN A 192.0.2.1"
)


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_end_in_an_answer_or_a_value_error(octets: bytes, is_response: bool) -> None:
    """Nothing a server sends gets out as another exception."""
    with contextlib.suppress(ValueError):
        decode_answer("example.org", "MX", (_FULL[:12] if is_response else b"") + octets, trust_ad=True)


@given(
    st.lists(st.tuples(st.integers(0, len(_FULL) - 1), st.integers(0, 255)), max_size=6), st.integers(12, len(_FULL))
)
def test_damaged_answers_end_in_an_answer_or_a_value_error(damage: list[tuple[int, int]], end: int) -> None:
    """Neither does a real answer with some octets changed, or cut off."""
    octets = bytearray(_FULL)
    for place, octet in damage:
        octets[place] = octet
    with contextlib.suppress(ValueError):
        decode_answer("example.org", "MX", bytes(octets[:end]), trust_ad=True)
