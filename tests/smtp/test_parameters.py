# SPDX-License-Identifier: MIT
"""Parameters of DSN, AUTH and REQUIRETLS: kept as they were written, and never with control characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.envelope import DsnRequest, Notify
from smarthost.mail.reply import Reply
from smarthost.smtp.grammar import parse_mail, parse_rcpt
from smarthost.smtp.offer import NOTHING, Offer
from smarthost.smtp.wire import MailReceived, RcptReceived

ALL = Offer(auth=("PLAIN",), requiretls=True)


def mail(parameters: str, offer: Offer = ALL) -> MailReceived | Reply:
    return parse_mail(f"FROM:<a@b> {parameters}".encode(), 10_000, offer)


def rcpt(parameters: str, *, smtputf8: bool = False) -> DsnRequest | Reply | None:
    outcome = parse_rcpt(f"TO:<a@b> {parameters}".encode(), smtputf8)
    return outcome.request if isinstance(outcome, RcptReceived) else outcome


def code(outcome: object) -> int:
    return outcome.code if isinstance(outcome, Reply) else 250


def test_mail_keeps_ret_and_envid_as_written() -> None:
    """RFC 3461 4.3, 4.4: what the sender wants back, and his name for the message, xtext and all."""
    outcome = mail("RET=hdrs ENVID=QQ+2B314+20159")

    assert isinstance(outcome, MailReceived)
    assert (outcome.ret, outcome.envid) == ("HDRS", "QQ+2B314+20159")
    assert isinstance(mail("ENVID=" + "x" * 100), MailReceived)


@pytest.mark.parametrize(
    "text",
    ["RET", "RET=", "RET=ALL", "RET=FULL RET=FULL", "RET=FULL ret=HDRS", "ENVID", "ENVID=", "ENVID=a+2", "ENVID=a+0Ab",
     "ENVID=a+0D+0AX-Header:+20x", "ENVID=a+00", "ENVID=a+C3+BC", "ENVID=a=b", "ENVID=a ENVID=a", "ENVID=\u00fc",
     "ENVID=" + "x" * 101, "AUTH", "AUTH=", "AUTH=a+2", "AUTH=a+0A", "AUTH=<> AUTH=<>", "AUTH=" + "x" * 501,
     "REQUIRETLS=yes", "REQUIRETLS REQUIRETLS"],
)  # fmt: skip
def test_malformed_parameter_of_mail_is_refused(text: str) -> None:
    """501, and nothing that decodes to a control character or to anything but printable ASCII is taken."""
    assert code(mail(text)) == 501


def test_auth_and_requiretls_are_taken_only_where_they_are_offered() -> None:
    """RFC 4954 5 and 8689: the AUTH parameter is kept as evidence; where it is not offered it is unknown."""
    outcome = mail("AUTH=e+3Dmc2@example.com REQUIRETLS")

    assert isinstance(outcome, MailReceived)
    assert (outcome.auth, outcome.requires_tls) == ("e+3Dmc2@example.com", True)
    assert getattr(mail("AUTH=<>"), "auth", "") == "<>"
    for text in ("AUTH=<>", "REQUIRETLS", "AUTH=a+0A"):
        assert code(mail(text, NOTHING)) == 555


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("NOTIFY=NEVER", DsnRequest(Notify.NEVER)),
        ("notify=never", DsnRequest(Notify.NEVER)),
        ("NOTIFY=SUCCESS", DsnRequest(Notify.SUCCESS)),
        ("NOTIFY=FAILURE,DELAY", DsnRequest(Notify.FAILURE | Notify.DELAY)),
        ("NOTIFY=delay,SUCCESS,Failure", DsnRequest(Notify.SUCCESS | Notify.FAILURE | Notify.DELAY)),
        ("ORCPT=rfc822;Bob+2Bx@example.org", DsnRequest(orcpt="rfc822;Bob+2Bx@example.org")),
        ("ORCPT=RFC822;Bob@example.org NOTIFY=NEVER", DsnRequest(Notify.NEVER, "RFC822;Bob@example.org")),
        ("ORCPT=x400;/S+3Da/", DsnRequest(orcpt="x400;/S+3Da/")),
        (r"ORCPT=utf-8;j\x{FC}rgen@example.org", DsnRequest(orcpt=r"utf-8;j\x{FC}rgen@example.org")),
        (r"ORCPT=utf-8;a\x{2B}b@example.org", DsnRequest(orcpt=r"utf-8;a\x{2B}b@example.org")),
        ("ORCPT=rfc822;" + "x" * 493, DsnRequest(orcpt="rfc822;" + "x" * 493)),
    ],
)
def test_dsn_request_of_a_recipient_is_read(text: str, request_: DsnRequest) -> None:
    """RFC 3461 4.1 and 4.2: when to report, and what the recipient was called at first."""
    assert rcpt(text) == request_


@pytest.mark.parametrize(
    "text",
    ["NOTIFY", "NOTIFY=", "NOTIFY=ALWAYS", "NOTIFY=NEVER,DELAY", "NOTIFY=DELAY,NEVER", "NOTIFY=NEVER,NEVER",
     "NOTIFY=DELAY,DELAY", "NOTIFY=DELAY,", "NOTIFY=,DELAY", "NOTIFY=DELAY;SUCCESS", "NOTIFY=DELAY NOTIFY=DELAY",
     "ORCPT", "ORCPT=", "ORCPT=rfc822", "ORCPT=rfc822;", "ORCPT=;a@b", "ORCPT=rfc 822;a", "ORCPT=rf(c;a@b",
     "ORCPT=rfc822;a+0Ab", "ORCPT=rfc822;a+0D+0Ab", "ORCPT=rfc822;a+00", "ORCPT=rfc822;a+2b", "ORCPT=rfc822;a\u00fc@b",
     "ORCPT=rfc822;a ORCPT=rfc822;a", "ORCPT=rfc822;" + "x" * 494, r"ORCPT=utf-8;a\x{0A}b", r"ORCPT=utf-8;a\x{0D}b",
     r"ORCPT=utf-8;a\x{7F}b", r"ORCPT=utf-8;a\x{85}b", r"ORCPT=utf-8;a\x{2028}b", r"ORCPT=utf-8;a\x{D800}b",
     r"ORCPT=utf-8;a\x{110000}b", r"ORCPT=utf-8;a\x{}b", r"ORCPT=utf-8;a\x{FC", r"ORCPT=utf-8;a\xFCb",
     "ORCPT=utf-8;a+0Ab", "ORCPT=utf-8;"],
)  # fmt: skip
def test_malformed_dsn_request_is_refused(text: str) -> None:
    """501: NEVER stands alone, nothing comes twice, and no address hides a line end."""
    assert code(rcpt(text)) == 501
    assert code(rcpt(text, smtputf8=True)) == 501


def test_utf8_original_recipient_is_kept_in_ascii() -> None:
    """RFC 6533 3: UTF-8 may come where SMTPUTF8 was declared; what is kept can go to any host with DSN."""
    assert rcpt("ORCPT=utf-8;j\u00fcrgen@b\u00fccher.example", smtputf8=True) == DsnRequest(
        orcpt=r"utf-8;j\x{FC}rgen@b\x{FC}cher.example"
    )
    assert code(rcpt("ORCPT=utf-8;j\u00fcrgen@example.org")) == 501
    assert code(rcpt("ORCPT=utf-8;" + "\u00fc" * 200, smtputf8=True)) == 501  # 500 octets at most, as kept
    assert code(parse_rcpt(b"TO:<a@b> ORCPT=utf-8;\xff@b", True)) == 501


def test_postmaster_may_have_parameters_too() -> None:
    """The one recipient without a domain is a recipient like any other."""
    outcome = parse_rcpt(b"TO:<postmaster> NOTIFY=NEVER", False)

    assert isinstance(outcome, RcptReceived)
    assert outcome.request == DsnRequest(Notify.NEVER)
    assert parse_rcpt(b"TO:<a@b>", False) == RcptReceived(outcome.recipient.__class__("a@b", "b"))  # type: ignore[arg-type]


NOISE = st.binary(max_size=40) | st.text("+0129AFaf=;,\\x{}\u00fc\u2028\x85NEVER", max_size=20).map(
    lambda text: text.encode()
)


@given(st.sampled_from([b"ENVID=", b"AUTH=", b"RET=", b"BODY=", b""]), NOISE)
def test_any_octets_in_a_parameter_of_mail_give_a_value_without_control_characters(name: bytes, noise: bytes) -> None:
    """What is kept can be written to a command, a header or a log."""
    outcome = parse_mail(b"FROM:<a@b> SMTPUTF8 " + name + noise, 10_000, ALL)

    if isinstance(outcome, MailReceived):
        assert all(text.isascii() and text.isprintable() for text in (outcome.envid, outcome.auth, outcome.ret))


@given(st.sampled_from([b"ORCPT=rfc822;", b"ORCPT=utf-8;", b"ORCPT=", b"NOTIFY="]), NOISE, st.booleans())
def test_any_octets_in_a_parameter_of_rcpt_give_ascii_without_control_characters(
    name: bytes, noise: bytes, smtputf8: bool
) -> None:
    """The same for ORCPT, whichever type of address."""
    outcome = parse_rcpt(b"TO:<a@b> " + name + noise, smtputf8)

    if isinstance(outcome, RcptReceived) and outcome.request is not None:
        orcpt = outcome.request.orcpt
        assert orcpt.isascii()
        assert not orcpt or orcpt.isprintable()
        assert len(orcpt) <= 500
