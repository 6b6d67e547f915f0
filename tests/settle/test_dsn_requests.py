# SPDX-License-Identifier: MIT
"""settle.dsn: what a sender asked for comes back in the report: ENVID, ORCPT, RET; and reports of delay and success."""

import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.settle.test_dsn import (
    ARRIVED,
    BOB,
    BODY,
    HEADER,
    HOSTILE,
    ID,
    NOW,
    OLD,
    PREFIX,
    body_of,
    check_lines,
    groups,
    owed,
    parse,
)

from smarthost.mail.envelope import Body, Notify, SenderTls
from smarthost.mail.message import Message
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.settle.dsn import report_message, report_records, select_due, write_report

EXPIRES = ARRIVED + 5 * 86_400.0
LATE = replace(
    BOB, n=2, address="dave@example.com", state=State.DEFERRED, status="4.2.1", last_reply="450 4.2.1 busy", why="busy"
)
GONE_ON = replace(
    BOB,
    n=3,
    address="erin@example.com",
    state=State.RELAYED,
    status="2.0.0",
    last_reply="250 2.0.0 taken",
    why="the host took responsibility for it",
    notify=Notify.SUCCESS,
)
HOME = replace(GONE_ON, n=4, address="frank@example.com", dsn=DsnDuty.DELIVERED)


def told(debt: OwedReport) -> bytes:
    return write_report(debt, reporting_mta="relay.example", now=NOW, id=ID, expires_at=EXPIRES)


def text_of(octets: bytes) -> str:
    _, text, *_ = parse(octets)
    return " ".join(bytes(text.get_payload(decode=True)).decode().split())


def mail_about(debt: OwedReport) -> Message:
    report = report_message(debt, reporting_mta="relay.example", now=NOW, id=ID, expires_at=EXPIRES)
    assert report is not None
    return report


# -- actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "action", "status", "subject"),
    [
        (BOB, "failed", "5.1.1", "Your message could not be delivered"),
        (OLD, "failed", "4.4.7", "Your message could not be delivered"),
        (LATE, "delayed", "4.2.1", "Your message is delayed"),
        (replace(LATE, state=State.HELD), "delayed", "4.2.1", "Your message is delayed"),
        (replace(LATE, status=""), "delayed", "4.0.0", "Your message is delayed"),
        (replace(LATE, status="5.7.1"), "delayed", "4.7.1", "Your message is delayed"),
        (GONE_ON, "relayed", "2.0.0", "Your message was handed on"),
        (replace(GONE_ON, status="5.1.5"), "relayed", "2.1.5", "Your message was handed on"),
        (HOME, "delivered", "2.0.0", "Your message was delivered"),
    ],
)
def test_action_status_and_subject_agree(recipient: SettledRecipient, action: str, status: str, subject: str) -> None:
    """A person and a program read the same: what became of it, in three places."""
    report, _, machine, _ = parse(told(owed(recipient)))

    assert (action, status) == (groups(machine)[1]["Action"], groups(machine)[1]["Status"])
    assert subject == report["Subject"]


def test_a_delay_says_until_when_it_is_tried_and_that_nothing_is_to_be_done() -> None:
    """A warning must not be taken for a bounce: people send again then."""
    octets = told(owed(LATE))

    recipient = groups(parse(octets)[2])[1]
    assert "Sun, 19 Nov 2023 22:13:20 +0000" == recipient["Will-Retry-Until"]
    assert "smtp; 450 4.2.1 busy" == recipient["Diagnostic-Code"]
    words = text_of(octets)
    assert "you need not send it again: it is still being tried until Sun, 19 Nov 2023 22:13:20 +0000." in words
    assert "This is final" not in words
    assert "Reach the recipient another way" not in words


def test_a_delay_promises_no_time_that_is_past() -> None:
    """A relay that was down for a week knows no honest time."""
    octets = write_report(owed(LATE), reporting_mta="relay.example", now=NOW, id=ID, expires_at=NOW - 1)

    assert "Will-Retry-Until" not in groups(parse(octets)[2])[1]
    assert "it is still being tried." in text_of(octets)


def test_what_is_handed_on_is_not_called_delivered() -> None:
    """Nobody behind that host will report, and the text does not promise it."""
    words = text_of(told(owed(GONE_ON)))

    assert "handed on for the recipients below to hosts that do not report deliveries" in words
    assert "was delivered" not in words
    assert "This is what mx.example.net said: 250 2.0.0 taken" in words


def test_only_a_delay_names_a_time_of_retrying() -> None:
    """What has ended is not tried again."""
    for recipient in (BOB, OLD, GONE_ON, HOME):
        assert b"Will-Retry-Until" not in told(owed(recipient))


def test_success_without_a_reply_invents_no_diagnostic() -> None:
    """There is no error to diagnose."""
    _, _, machine, _ = parse(told(owed(replace(GONE_ON, last_reply=""))))

    assert "Diagnostic-Code" not in groups(machine)[1]


def test_one_report_tells_of_different_fates_group_by_group() -> None:
    """Failed, delayed, handed on, delivered: one letter, each under a sentence of its own."""
    report, _, machine, _ = parse(told(owed(HOME, LATE, BOB, GONE_ON)))

    assert ["delivered", "delayed", "failed", "relayed"] == [group["Action"] for group in groups(machine)[1:]]
    assert "Your message could not be delivered to all recipients" == report["Subject"]
    words = text_of(told(owed(HOME, LATE, BOB, GONE_ON)))
    order = ["Not all recipients", "This is final", "<bob@", "warning only", "<dave@", "handed on", "<erin@", "<frank@"]
    places = [words.index(phrase) for phrase in order]
    assert sorted(places) == places


@pytest.mark.parametrize(
    ("recipients", "subject"),
    [
        ((LATE, GONE_ON), "Your message is delayed for some recipients"),
        ((HOME, GONE_ON), "Your message was delivered or handed on"),
    ],
)
def test_subject_of_mixed_fates_promises_no_more_than_is_true(
    recipients: tuple[SettledRecipient, ...], subject: str
) -> None:
    """The subject is what many people read, and all they read."""
    assert subject == parse(told(owed(*recipients)))[0]["Subject"]


# -- ENVID and ORCPT -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envid", "written"),
    [
        ("", None),
        ("QQ314159", "QQ314159"),
        ("a+2Bb+3Dc", "a+b=c"),
        ("x+20y", "x y"),
        ("x+0D+0ABcc:+20v@x.example", "x  Bcc: v@x.example"),
        ("x+00+1B[31m", "x  [31m"),
        ("+20+20+20", None),
        ("a+b", "a+b"),
        ("caf+C3+A9", "caf\\x{E9}"),
        ("+FF", "\\xff"),
        ("A" * 3000, None),
    ],
)
def test_envid_comes_back_as_the_sender_meant_it(envid: str, written: str | None) -> None:
    """Decoded from xtext; what would end the field or the part becomes a space."""
    octets = told(replace(owed(), envid=envid))

    message, recipient = groups(parse(octets)[2])
    if len(envid) < 1000:
        assert written == message["Original-Envelope-Id"]
    assert ["dns; relay.example", "failed"] == [message["Reporting-MTA"], recipient["Action"]]
    assert b"\r\nBcc:" not in octets


@pytest.mark.parametrize(
    ("orcpt", "written"),
    [
        ("", None),
        ("rfc822;robert@example.net", "rfc822; robert@example.net"),
        ("RFC822;a+2Bb@example.net", "RFC822; a+b@example.net"),
        ("x400;/c=us/", "x400; /c=us/"),
        ("rfc822;x+0D+0AAction:+20delivered", "rfc822; x  Action: delivered"),
        ("rfc822;", None),
        ("rfc822;+20", None),
        ("no type", None),
        ("rfc822\r\nX: y;a@b", None),
        (";a@b", None),
        ("rfc 822;a@b", None),
    ],
)
def test_orcpt_comes_back_with_its_type(orcpt: str, written: str | None) -> None:
    """A sender finds the address it wrote to first, not only that to which we sent."""
    octets = told(owed(replace(BOB, orcpt=orcpt)))

    _, recipient = groups(parse(octets)[2])
    assert written == recipient["Original-Recipient"]
    assert ("rfc822; bob@example.net", "failed") == (recipient["Final-Recipient"], recipient["Action"])
    assert 1 == octets.count(b"\r\nAction:")


@pytest.mark.parametrize(
    ("orcpt", "written"),
    [
        ("utf-8;j\\x{F6}rg@b\\x{FC}cher.example", "utf-8; j\u00f6rg@b\u00fccher.example"),
        ("utf-8;j\u00f6rg@example.net", "utf-8; j\u00f6rg@example.net"),
        ("UTF-8;a\\x{2B}b@example.net", "UTF-8; a+b@example.net"),
        ("utf-8;a\\x{0D}\\x{0A}Action: x", "utf-8; a  Action: x"),
        ("utf-8;a\\x{2028}b\\x{202E}c", "utf-8; a b c"),
        ("utf-8;a\\x{D800}b\\x{110000}c", "utf-8; a?b\\x{110000}c"),
    ],
)
def test_internationalised_orcpt_is_written_in_its_global_form(orcpt: str, written: str) -> None:
    """RFC 6533 3: type utf-8 stays, \\x{...} becomes the character, in a report that any path can carry."""
    octets = told(owed(replace(BOB, orcpt=orcpt)))

    assert octets.isascii()
    status = body_of(octets, b"message/global-delivery-status").decode()
    assert [written] == [line[20:] for line in status.split("\r\n") if line.startswith("Original-Recipient")]
    assert 1 == status.count("\r\nAction:")


# -- RET -----------------------------------------------------------------------------------------------------------


def full(debt: OwedReport, content: bytes = HEADER + BODY) -> OwedReport:
    return replace(debt, ret="FULL", octets=len(content), header=content[: 64 * 1024])


def test_ret_full_returns_the_whole_message() -> None:
    """Who asks for all of it gets all of it, with a failure."""
    octets = told(full(owed()))

    assert PREFIX + HEADER + BODY == body_of(octets, b"message/rfc822")
    assert b"rfc822-headers" not in octets
    assert "The message is attached." in text_of(octets)
    *_, original = parse(octets)
    assert "lunch\r\n at noon" == groups(original)[0]["Subject"]


@pytest.mark.parametrize(
    "debt",
    [
        replace(owed(), ret="", octets=len(HEADER + BODY)),
        replace(owed(), ret="HDRS", octets=len(HEADER + BODY)),
        full(owed(LATE)),
        full(owed(GONE_ON)),
        full(owed(), HEADER + BODY + b"x\r\n" * 30_000),
        replace(full(owed()), tls=SenderTls.REQUIRED),
        full(owed(), HEADER + BODY + b"y" * 999 + b"\r\n"),
        full(owed(), HEADER + BODY + b"bare\nnewline\r\n"),
        full(owed(), HEADER + BODY + b"\x00\r\n"),
        full(owed(), HEADER + BODY + b"\x1b[31m\r\n"),
    ],
    ids=["unset", "HDRS", "delay", "success", "large", "REQUIRETLS", "long line", "bare LF", "NUL", "escape"],
)
def test_else_the_header_section_is_all_that_goes_back(debt: OwedReport) -> None:
    """Not asked for, not a failure, too large, to be protected, or not fit for mail: the body stays here."""
    octets = told(debt)

    assert PREFIX + HEADER == body_of(octets, b"text/rfc822-headers")
    assert b"secret" not in octets
    assert "Its header section is attached, its body is not." in text_of(octets)


def test_raw_8_bit_fields_keep_the_body_here() -> None:
    """Nobody could convert such a report for a 7-bit host, and it would be lost."""
    octets = told(full(owed(), b"X-Name: Gr\xfc\xdfe\r\n" + HEADER + BODY))

    assert b"message/rfc822\r\n" not in octets
    assert b"secret" not in octets
    assert octets.isascii()


def test_a_whole_message_of_8_bits_is_declared_so() -> None:
    """Every layer around 8-bit content says 8bit, and the envelope says 8BITMIME."""
    content = HEADER + b"\r\ncaf\xe9\r\n"
    report = mail_about(full(owed(), content))
    octets = b"".join(report.content.chunks())

    assert PREFIX + content == body_of(octets, b"message/rfc822")
    assert 2 == octets.count(b"Content-Transfer-Encoding: 8bit")
    assert (Body.EIGHT_BIT_MIME, False) == (report.envelope.body, report.envelope.smtputf8)


def test_a_whole_internationalised_message_goes_back_in_7_bits() -> None:
    """message/global may be encoded, so that a sender with an ASCII address gets it by any path."""
    content = "Subject: \u00e4\r\n\r\n\u00f6\r\n".encode()
    report = mail_about(full(owed(smtputf8=True), content))
    octets = b"".join(report.content.chunks())

    assert octets.isascii()
    assert PREFIX + content == body_of(octets, b"message/global\r\n")
    assert Body.SEVEN_BIT is report.envelope.body


def test_a_whole_message_cannot_end_its_part() -> None:
    """A message that holds our own boundary, guessed or seen, stays inside its part."""
    body = b"\r\n".join(b"--=_%s_%d--" % (ID.encode(), n) for n in range(3))
    content = HEADER + b"\r\n" + body + b"\r\nReporting-MTA: dns; evil.example\r\n"

    octets = told(full(owed(), content))

    report, *_ = parse(octets)
    assert f"=_{ID}_3" == report.get_boundary()
    assert PREFIX + content == body_of(octets, b"message/rfc822")


def test_a_message_that_demanded_tls_is_reported_under_tls() -> None:
    """RFC 8689 5: what its header section tells is protected on the way back, too."""
    protected = mail_about(replace(owed(), tls=SenderTls.REQUIRED))
    waived = mail_about(replace(owed(), tls=SenderTls.OPTIONAL))

    assert SenderTls.REQUIRED is protected.envelope.tls
    assert SenderTls.DEFAULT is waived.envelope.tls


# -- who is told at last -------------------------------------------------------------------------------------------


def test_a_delay_that_is_over_is_not_reported() -> None:
    """Relayed, or dropped by an operator, before the warning was written: the warning would be false."""
    arrived = replace(LATE, n=5, state=State.RELAYED, status="2.0.0")
    dropped = replace(LATE, n=6, state=State.CANCELLED)
    debt = owed(BOB, arrived, dropped)

    report = mail_about(debt)
    records = report_records(debt, report, now=NOW, next_seq=count(1).__next__)

    assert (BOB,) == select_due(debt).recipients
    assert 1 == b"".join(report.content.chunks()).count(b"\r\nAction:")
    assert [True, False, False] == [ID in each.why for each in records]
    assert "nobody is told: it is relayed by now, and no report of that is wanted" == records[1].why
    assert "nobody is told: it is cancelled by now, and no report of that is wanted" == records[2].why
    assert report_message(owed(arrived), reporting_mta="relay.example", now=NOW, id=ID) is None


def test_records_name_the_reason_that_no_mail_was_sent() -> None:
    """Nothing is dropped in silence."""
    (record,) = report_records(owed(), None, now=NOW, next_seq=count(1).__next__, why_not="too many of them")

    assert "nobody is told: too many of them" == record.why


some_text = st.text(max_size=120) | st.sampled_from(HOSTILE)
some_recipient = st.builds(
    SettledRecipient,
    st.integers(0, 9),
    some_text,
    st.just("x"),
    st.sampled_from([State.BOUNCED, State.EXPIRED, State.DEFERRED, State.HELD, State.RELAYED]),
    st.just(0.0),
    st.integers(0, 9),
    some_text,
    some_text,
    some_text,
    st.just(True),
    some_text,
    dsn=st.sampled_from(DsnDuty),
    orcpt=some_text | some_text.map(lambda text: f"rfc822;{text}") | some_text.map(lambda text: f"utf-8;{text}"),
)


@settings(deadline=None, max_examples=60)
@given(
    recipients=st.lists(some_recipient, min_size=1, max_size=3),
    envid=some_text,
    ret=st.sampled_from(["", "FULL", "HDRS"]),
    content=st.binary(max_size=300)
    | st.sampled_from([HEADER + BODY, HEADER + b"\r\n--=_" + ID.encode() + b"_0--\r\n"]),
    smtputf8=st.booleans(),
)
def test_any_debt_with_any_wishes_gives_a_sound_report(
    recipients: list[SettledRecipient], envid: str, ret: str, content: bytes, smtputf8: bool
) -> None:
    """Whatever was asked for and by whom, lines fit, three parts stand, and each recipient has one action."""
    debt = replace(owed(*recipients, smtputf8=smtputf8), envid=envid, ret=ret, octets=len(content), header=content)

    octets = told(debt)

    check_lines(octets)
    boundary = re.search(rb'boundary="([^"]+)"', octets)
    assert boundary is not None
    assert 4 == octets.count(b"--" + boundary[1])
    kind = b"message/global-delivery-status" if b"global-delivery" in octets else b"message/delivery-status"
    status = body_of(octets, kind)
    actions = re.findall(rb"^Action: (\w+)\r\nStatus: (\d)\.", status, re.MULTILINE)
    assert len(recipients) == len(actions)
    for recipient, (action, number) in zip(recipients, actions, strict=True):
        expected = {State.BOUNCED: b"failed", State.EXPIRED: b"failed", State.RELAYED: b"relayed"}
        if recipient.state is State.RELAYED and recipient.dsn is DsnDuty.DELIVERED:
            assert b"delivered" == action
        else:
            assert expected.get(recipient.state, b"delayed") == action
        assert number in {b"failed": b"54", b"delayed": b"4"}.get(action, b"2")
    assert len(recipients) + 1 == len(status.split(b"\r\n\r\n"))
    assert all(re.match(rb"[A-Z][A-Za-z-]+:| ", line) for line in status.split(b"\r\n") if line)
