# SPDX-License-Identifier: MIT
"""settle.dsn: reports, read back by the standard library's parser and checked field by field."""

import quopri
import re
from email import message_from_bytes
from email.message import Message as Parsed
from email.utils import parsedate_to_datetime
from itertools import count
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body, Envelope
from smarthost.mail.record import Kind
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.settle.dsn import report_message, report_records, write_report

ID = "zyxwvutsrqpnmkjh"
ARRIVED = 1_700_000_000.0
NOW = ARRIVED + 500.0
PREFIX = b"Received: from app.example ([192.0.2.1])\r\n by relay.example with ESMTP id 0123456789abcdef;\r\n today\r\n"
HEADER = b"From: Alice <alice@example.org>\r\nSubject: lunch\r\n at noon\r\nMessage-ID: <abc.1@example.org>\r\n"
BODY = b"\r\nThe secret body\r\nwith lines\r\n"

BOB = SettledRecipient(
    0,
    "bob@example.net",
    "example.net",
    State.BOUNCED,
    0.0,
    1,
    "5.1.1",
    "550 5.1.1 no such user",
    "mx.example.net refused the recipient",
    True,
    "mx.example.net",
)
OLD = SettledRecipient(
    1,
    "carol@example.org",
    "example.org",
    State.EXPIRED,
    0.0,
    97,
    "4.4.7",
    "451 4.7.1 greylisted",
    "not delivered within 5 days; last: 451 4.7.1 greylisted",
    True,
    "mx.example.org",
)


def owed(*failed: SettledRecipient, reverse_path: str = "alice@example.org", smtputf8: bool = False) -> OwedReport:
    return OwedReport("0123456789abcdef", ARRIVED, reverse_path, smtputf8, PREFIX, HEADER + BODY, failed or (BOB,))


def write(debt: OwedReport, attempted_at: dict[int, float] | None = None) -> bytes:
    return write_report(debt, reporting_mta="relay.example", now=NOW, id=ID, attempted_at=attempted_at or {})


def parse(octets: bytes) -> tuple[Parsed, Parsed, Parsed, Parsed]:
    """Give the report and its three parts; check what holds for every report on the way."""
    check_lines(octets)
    report = message_from_bytes(octets)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert not report.defects
    parts = report.get_payload()
    assert isinstance(parts, list)
    text, status, header = cast("list[Parsed]", parts)
    assert not [part.defects for part in (text, status, header) if part.defects]
    return report, text, status, header


def check_lines(octets: bytes) -> None:
    assert octets.endswith(b"\r\n")
    assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", octets)


def groups(status: Parsed) -> list[Parsed]:
    blocks = status.get_payload()
    assert isinstance(blocks, list)
    return cast("list[Parsed]", blocks)


def body_of(octets: bytes, content_type: bytes) -> bytes:
    """Give the decoded body of the part of that type, cut out by hand: the parser does not decode message/*."""
    boundary = re.search(rb'boundary="([^"]+)"', octets)
    assert boundary is not None
    for part in octets.split(b"--" + boundary[1])[1:-1]:
        head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if b"Content-Type: " + content_type in head:
            body = body.removesuffix(b"\r\n")
            if b"quoted-printable" not in head:
                return body
            return quopri.decodestring(body.replace(b"\r\n", b"\n")).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    raise AssertionError(f"no part of type {content_type!r}")


# -- the plain report ------------------------------------------------------------------------------


def test_header_of_the_report() -> None:
    """The report comes from the mail system, answers the message, and asks no machine for an answer."""
    report, *_ = parse(write(owed()))

    assert {name: value.replace("\r\n", "") for name, value in report.items() if name != "Content-Type"} == {
        "From": "Mail Delivery System <MAILER-DAEMON@relay.example>",
        "To": "<alice@example.org>",
        "Subject": "Your message could not be delivered",
        "Date": "Tue, 14 Nov 2023 22:21:40 +0000",
        "Message-ID": f"<{ID}@relay.example>",
        "In-Reply-To": "<abc.1@example.org>",
        "References": "<abc.1@example.org>",
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Transfer-Encoding": "7bit",
    }


def test_text_tells_a_person_which_address_what_was_said_and_what_to_do() -> None:
    """The first part can be understood without knowing what SMTP is."""
    _, text, *_ = parse(write(owed(BOB, OLD)))
    words = text.get_payload(decode=True)

    assert text.get_content_type() == "text/plain"
    assert isinstance(words, bytes)
    for phrase in (
        b"<bob@example.net>",
        b"<carol@example.org>",
        b"mx.example.net said:\r\n    550 5.1.1 no such user",
        b"The address does not exist there.",
        b"not delivered within 5 days; last: 451 4.7.1 greylisted",
        b"Send it again if it still",
        b"0123456789abcdef",
        b"Tue, 14 Nov 2023 22:13:20 +0000",
    ):
        assert phrase in words
    assert words.count(b"greylisted") == 1
    assert max(map(len, words.split(b"\r\n"))) <= 78


def test_machine_part_of_a_bounce() -> None:
    """A program can read whom, by whom, why and when (RFC 3464)."""
    _, _, status, _ = parse(write(owed(), {0: NOW - 10}))
    message, recipient = groups(status)

    assert status.get_content_type() == "message/delivery-status"
    assert dict(message.items()) == {
        "Reporting-MTA": "dns; relay.example",
        "X-Smarthost-Id": "0123456789abcdef",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    assert dict(recipient.items()) == {
        "Final-Recipient": "rfc822; bob@example.net",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:21:30 +0000",
    }


def test_machine_part_of_an_expiry_keeps_the_last_reply() -> None:
    """Given up: the status says time ran out, the diagnostic what the host said last."""
    _, _, status, _ = parse(write(owed(OLD)))
    recipient = groups(status)[1]

    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "4.4.7"
    assert recipient["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"
    assert "Last-Attempt-Date" not in recipient


def test_failure_without_a_reply_is_not_attributed_to_smtp() -> None:
    """What DNS or we decided is marked as ours."""
    failed = replace(BOB, last_reply="", host="", status="5.1.2", why="the domain example.net does not exist")
    _, text, status, _ = parse(write(owed(failed)))
    recipient = groups(status)[1]

    assert recipient["Diagnostic-Code"] == "x-smarthost; the domain example.net does not exist"
    assert "Remote-MTA" not in recipient
    assert b"said:" not in bytes(text.get_payload(decode=True))


def test_header_section_goes_back_and_the_body_does_not() -> None:
    """The sender recognises the message; we amplify nothing."""
    octets = write(owed())
    *_, header = parse(octets)

    assert header.get_content_type() == "text/rfc822-headers"
    assert body_of(octets, b"text/rfc822-headers") == PREFIX + HEADER
    assert b"secret" not in octets


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (b"", b""),
        (b"\r\nbody: not a header\r\n", b""),
        (b"Just text, no header at all\r\nsecret\r\n", b""),
        (b"Subject: x\r\nno field here\r\nsecret: y\r\n", b"Subject: x\r\n"),
        (b"Subject: x\r\n\tmore\r\nX-A :b\r\n\r\n", b"Subject: x\r\n\tmore\r\nX-A :b\r\n"),
        (b"Subject: cut off in the midd", b""),
        (b": no name\r\n", b""),
        (b"Subj\xe9ct: x\r\n", b""),
    ],
)
def test_only_whole_header_fields_are_returned(header: bytes, kept: bytes) -> None:
    """Content without a proper header section gives back nothing of its body."""
    octets = write(replace(owed(), prefix=b"", header=header))

    parse(octets)
    assert body_of(octets, b"text/rfc822-headers") == kept


def test_header_section_is_cut_at_64_kib() -> None:
    """However long the original's header section, the report stays small."""
    octets = write(replace(owed(), header=b"X-Long: yes\r\n" * 60_000))

    assert len(body_of(octets, b"text/rfc822-headers")) <= 64 * 1024
    assert len(octets) < 70_000


@pytest.mark.parametrize(
    ("state", "status", "written"),
    [
        (State.BOUNCED, "5.7.1", "5.7.1"),
        (State.BOUNCED, "4.7.1", "5.7.1"),
        (State.BOUNCED, "2.1.5", "5.1.5"),
        (State.BOUNCED, "", "5.0.0"),
        (State.BOUNCED, "5.1", "5.0.0"),
        (State.BOUNCED, "5.1.1\r\nAction: delivered", "5.0.0"),
        (State.BOUNCED, "5.01.1", "5.0.0"),
        (State.BOUNCED, "5.1.\u0661", "5.0.0"),
        (State.EXPIRED, "4.2.2", "4.4.7"),
        (State.EXPIRED, "5.1.1", "4.4.7"),
    ],
)
def test_status_always_agrees_with_action_failed(state: State, status: str, written: str) -> None:
    """No report says failed and delivered in one breath."""
    _, _, parsed, _ = parse(write(owed(replace(BOB, state=state, status=status))))

    assert groups(parsed)[1]["Status"] == written
    assert groups(parsed)[1]["Action"] == "failed"


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("5.1.1", "does not exist there"),
        ("5.1.10", "takes no mail at all"),
        ("5.1.8", "Check the address"),
        ("5.2.2", "full"),
        ("5.3.4", "too large"),
        ("5.7.26", "policy"),
        ("5.6.7", "plain ASCII"),
        ("5.0.0", "show this report to your postmaster"),
        ("5.11.1", "show this report to your postmaster"),
    ],
)
def test_advice_fits_the_status(status: str, advice: str) -> None:
    """What to do depends on what went wrong."""
    _, text, *_ = parse(write(owed(replace(BOB, status=status))))

    words = b" ".join(bytes(text.get_payload(decode=True)).split()).decode()
    assert advice in words


def test_five_hundred_recipients_are_all_listed_in_one_report() -> None:
    """One message gives one report, however many of its recipients failed."""
    failed = tuple(replace(BOB, n=n, address=f"user{n}@example.net") for n in range(500))

    _, text, status, _ = parse(write(owed(*failed)))

    listed = [group["Final-Recipient"] for group in groups(status)[1:]]
    assert listed == [f"rfc822; user{n}@example.net" for n in range(500)]
    assert bytes(text.get_payload(decode=True)).count(b"@example.net>") == 500


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        (b"Message-Id: <a@b>\r\n", "<a@b>"),
        (b"MESSAGE-ID:\r\n <a@b>\r\n", "<a@b>"),
        (b"Message-ID: <a b@c>\r\n", None),
        (b"Message-ID: <a\x00@b>\r\n", None),
        (b"Message-ID: a@b\r\n", None),
        (b"Message-ID: <" + b"a" * 300 + b"@b>\r\n", None),
        (b"X-Message-ID: <a@b>\r\n", None),
        (b"Subject: x\r\n\r\nMessage-ID: <in@body>\r\n", None),
        (b"Message-ID: <\xc3\xa9@b>\r\n", None),
        (b"", None),
    ],
)
def test_original_message_id_is_quoted_only_if_sound(field: bytes, kept: str | None) -> None:
    """The report joins the thread of the message, but copies no garbage into its own header."""
    octets = write(replace(owed(), header=field))

    report = message_from_bytes(octets)
    assert report["In-Reply-To"] == kept
    assert report["References"] == kept


# -- hostile input ---------------------------------------------------------------------------------

HOSTILE = [
    "550 no\r\nBcc: victim@example.com\r\n\r\nspam",
    "550 no\nAction: delivered",
    "550 no\rStatus: 2.0.0",
    "550 \x00\x07\x1b[31mred",
    "550 \u2028Action: delivered\u2029\x85x",
    "550 \u202eevil",
    f"550 {'x' * 20_000}",
    f"550 {'x ' * 20_000}",
    "x" * 20_000,
    f"550 {chr(0x1F600) * 20_000}",
    "550 caf\u00e9 ferm\u00e9",
    "550 \udcff lone surrogate",
    f"550 --=_{ID}_0--",
    "",
    " ",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_reply_stays_inside_its_field(text: str) -> None:
    """A host cannot write a report of its own through what it says."""
    octets = write(owed(replace(BOB, last_reply=text, why=text[::-1], host=text), OLD))

    _, written, status, _ = parse(octets)
    message, first, second = groups(status)
    words = bytes(written.get_payload(decode=True)).decode()
    assert all(c.isprintable() for line in words.split("\r\n") for c in line)
    assert "Remote-MTA" not in first
    assert octets.isascii()
    assert len(octets) < 50_000
    assert b"\r\nBcc:" not in octets
    assert list(first.keys()).count("Action") == list(first.keys()).count("Status") == 1
    assert (first["Action"], first["Status"], second["Status"]) == ("failed", "5.1.1", "4.4.7")
    assert message["Reporting-MTA"] == "dns; relay.example"


def test_internationalised_reply_is_kept_legible_in_both_parts() -> None:
    """What a host said in its language reaches the person as it was, the program in ASCII without loss."""
    octets = write(owed(replace(BOB, last_reply="550 5.1.1 caf\u00e9")))

    _, text, status, _ = parse(octets)
    assert "550 5.1.1 caf\u00e9" in bytes(text.get_payload(decode=True)).decode()
    assert groups(status)[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 caf\\x{E9}"


@pytest.mark.parametrize(
    "address",
    [
        "a\r\nBcc: x@y@example.net",
        "a\u2028b@example.net",
        "a\x00b@example.net",
        '"a  b"@example.net',
        "x" * 5000 + "@example.net",
    ],
)
def test_hostile_address_cannot_break_the_report(address: str) -> None:
    """Even an address that no grammar would pass does no harm here."""
    octets = write(owed(replace(BOB, address=address), reverse_path=address))

    _, text, *_ = parse(octets)
    words = bytes(text.get_payload(decode=True)).decode()
    assert all(c.isprintable() for line in words.split("\r\n") for c in line)
    assert b"\r\nBcc" not in octets
    assert octets.count(b"\r\nFinal-Recipient:") == 1


def test_boundary_is_not_found_in_what_is_quoted() -> None:
    """Who guesses our boundary gets another one."""
    debt = owed(replace(BOB, last_reply=f"550 --=_{ID}_0"))
    debt = replace(debt, header=f"Subject: --=_{ID}_1\r\n --=_{ID}_2--\r\n".encode() + HEADER)

    octets = write(debt)

    assert f'boundary="=_{ID}_3"'.encode() in octets
    assert octets.count(f"--=_{ID}_3".encode()) == 4
    parse(octets)


@pytest.mark.parametrize(
    "field",
    [
        b"X-Eight: caf\xc3\xa9\r\n",
        b"X-Latin: caf\xe9\r\n",
        b"X-Null: a\x00b\r\n",
        b"X-Long: " + b"y" * 5000 + b"\r\n",
        b"X-Bare: a\rb\nc\r\n",
        b"X-Space: a \t \r\n",
        b"X-Space: \xe9 \r\n",
        b"X-Equals: =41=\xe9\r\n",
        b"X-Tab:\t\xe9\t\r\n",
    ],
)
def test_strange_header_octets_come_back_unharmed(field: bytes) -> None:
    """The original's header section is returned octet for octet, in lines any path can carry."""
    octets = write(replace(owed(), header=field))

    parse(octets)
    boundary = f"--=_{ID}_0".encode()
    part = octets.split(boundary)[3].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    restored = quopri.decodestring(part) if field != b"X-Space: a \t \r\n" else part
    assert restored == PREFIX + field
    assert octets.isascii()


# -- RFC 6533 --------------------------------------------------------------------------------------

JOERG = replace(BOB, address="j\u00f6rg@b\u00fccher.example", last_reply="550 5.1.1 nein, \u00f6de")


def test_internationalised_recipient_makes_a_global_report_that_any_path_can_carry() -> None:
    """An ASCII sender is told of an UTF-8 recipient in a report that is all 7-bit."""
    octets = write(owed(JOERG, smtputf8=True))

    assert octets.isascii()
    check_lines(octets)
    status = body_of(octets, b"message/global-delivery-status").decode()
    assert "Final-Recipient: utf-8; j\u00f6rg@b\u00fccher.example\r\n" in status
    assert "Diagnostic-Code: smtp; 550 5.1.1 nein, \u00f6de\r\n" in status
    assert body_of(octets, b"message/global-headers") == PREFIX + HEADER


def test_ascii_recipient_of_an_internationalised_message_keeps_its_type() -> None:
    """Only an address that needs it gets the address type utf-8."""
    octets = write(owed(BOB, JOERG, smtputf8=True))

    status = body_of(octets, b"message/global-delivery-status").decode()
    assert "Final-Recipient: rfc822; bob@example.net" in status
    assert "Final-Recipient: utf-8; j\u00f6rg" in status


def test_internationalised_sender_gets_an_eight_bit_report() -> None:
    """A report that needs SMTPUTF8 anyway speaks UTF-8 throughout."""
    debt = replace(owed(JOERG, smtputf8=True, reverse_path="\u00e4@example.org"), header="Subject: \u00e4\r\n".encode())

    octets = write(debt)

    check_lines(octets)
    assert "To: <\u00e4@example.org>\r\n".encode() in octets
    assert octets.count(b"Content-Transfer-Encoding: 8bit") == 4
    assert body_of(octets, b"message/global-headers") == PREFIX + debt.header


def test_eight_bit_report_never_claims_broken_octets_to_be_text() -> None:
    """A header section that is not UTF-8 is quoted also where 8-bit is allowed."""
    debt = replace(owed(reverse_path="\u00e4@example.org"), header=b"Subject: \xe9\r\n")

    octets = write(debt)

    check_lines(octets)
    octets.decode("utf-8")
    assert body_of(octets, b"text/rfc822-headers") == PREFIX + b"Subject: \xe9\r\n"


# -- the message around it -------------------------------------------------------------------------


def test_report_travels_with_the_null_reverse_path() -> None:
    """A report is a message to the sender, from nobody, so that no report about it can come back."""
    report = report_message(owed(), reporting_mta="relay.example", now=NOW, id=ID)

    assert report is not None
    assert report.envelope == Envelope("", (Address("alice@example.org", Domain("example.org")),))
    assert (report.id, report.received_at, report.prefix, report.client) == (ID, NOW, b"", "local")
    assert report.content == InlineContent(write(owed()))


def test_report_to_an_internationalised_sender_asks_for_smtputf8() -> None:
    """The envelope of the report carries what its addresses need."""
    report = report_message(owed(reverse_path="\u00e4@b\u00fccher.example"), reporting_mta="r.example", now=NOW, id=ID)

    assert report is not None
    assert report.envelope.smtputf8
    assert report.envelope.body is Body.EIGHT_BIT_MIME
    assert report.envelope.recipients[0].domain == "xn--bcher-kva.example"


@pytest.mark.parametrize("reverse_path", ["", "root", "@example.org", "a@", "a@exa..mple", f"a@{'x' * 300}"])
def test_nobody_is_told_when_the_reverse_path_cannot_be_routed(reverse_path: str) -> None:
    """No report is written to where none can go."""
    debt = owed(reverse_path=reverse_path)

    report = report_message(debt, reporting_mta="relay.example", now=NOW, id=ID)
    (record,) = report_records(debt, report, now=NOW, next_seq=count(1).__next__)

    assert report is None
    assert record.why.startswith("nobody is told")


def test_no_report_without_a_failed_recipient() -> None:
    """An empty debt writes no letter."""
    debt = replace(owed(), recipients=())

    assert report_message(debt, reporting_mta="relay.example", now=NOW, id=ID) is None


def test_records_name_the_report_for_each_recipient() -> None:
    """Why a recipient's sender got a report, and which, can be looked up."""
    debt = owed(BOB, OLD)
    report = report_message(debt, reporting_mta="relay.example", now=NOW, id=ID)

    records = report_records(debt, report, now=NOW, next_seq=count(7).__next__)

    assert [(each.seq, each.kind, each.recipient) for each in records] == [
        (7, Kind.REPORTED, "bob@example.net"),
        (8, Kind.REPORTED, "carol@example.org"),
    ]
    assert all(each.id == "0123456789abcdef" and ID in each.why and each.at == NOW for each in records)


some_text = st.text(max_size=120) | st.sampled_from(HOSTILE)
some_failed = st.builds(
    SettledRecipient,
    st.integers(0, 9),
    some_text,
    st.just("x"),
    st.sampled_from([State.BOUNCED, State.EXPIRED]),
    st.just(0.0),
    st.integers(0, 9),
    some_text,
    some_text,
    some_text,
    st.just(True),
    some_text,
)


@settings(deadline=None, max_examples=40)
@given(
    failed=st.lists(some_failed, min_size=1, max_size=3),
    reverse_path=some_text,
    smtputf8=st.booleans(),
    header=st.binary(max_size=300) | st.sampled_from([HEADER + BODY, PREFIX]),
    attempted_at=st.dictionaries(st.integers(0, 9), st.floats(0, 4e9)),
)
def test_any_debt_gives_a_report_of_three_sound_parts(
    failed: list[SettledRecipient],
    reverse_path: str,
    smtputf8: bool,
    header: bytes,
    attempted_at: dict[int, float],
) -> None:
    """Whatever hosts, senders and recipients are called or say, the report is well-formed and says failed."""
    debt = OwedReport("0123456789abcdef", ARRIVED, reverse_path, smtputf8, PREFIX, header, tuple(failed))

    octets = write(debt, attempted_at)

    check_lines(octets)
    report = message_from_bytes(octets)
    parts = report.get_payload()
    assert isinstance(parts, list)
    assert len(parts) == 3
    assert not report.defects
    assert report.get_all("To") is not None
    assert len(report.keys()) == len(set(report.keys()))
    assert report["Auto-Submitted"] == "auto-replied"
    parsed = parsedate_to_datetime(report["Date"])
    assert parsed.timestamp() == NOW
    assert reverse_path.isascii() <= octets.isascii()
    kind = b"message/global-delivery-status" if b"global-delivery" in octets else b"message/delivery-status"
    status = body_of(octets, kind)
    assert status.count(b"\r\nAction: failed\r\n") == len(failed)
    assert len(re.findall(rb"^Status: (?:5\.\d+\.\d+|4\.4\.7)\r$", status, re.MULTILINE)) == len(failed)
    assert len(re.findall(rb"^[^ \r]", status, re.MULTILINE)) == len(re.findall(rb"^[A-Z][A-Za-z-]+: ?", status, re.M))
