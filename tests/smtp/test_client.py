# SPDX-License-Identifier: MIT
"""The client machine against scripted hosts, good, odd and hostile: transcripts as tables."""

import pytest
from tests.smtp.transcripts import drain, octets, play, session, show, transaction

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.hop import Credentials
from smarthost.smtp.client import _TAKERS, SmtpClient, Transaction
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import (
    AuthAnswered,
    BannerReceived,
    ClosingReceived,
    HelloAnswered,
    StarttlsAnswered,
    TransactionEnded,
)

GROUP = "MAIL FROM:<a@b>|RCPT TO:<c@d>|DATA"
GROUP3 = "MAIL FROM:<a@b>|RCPT TO:<c@d>|RCPT TO:<e@f>|RCPT TO:<g@h>|DATA"

PIPELINED = [
    pytest.param(1, f"C: {GROUP}\nS: 250|250|354\nS: 250 2.0.0 queued", ["content wanted", "ended 250 [250] 354 250"],
                 id="relayed"),
    pytest.param(1, f"C: {GROUP}\nS: 250\nS: 250\nS: 354\nS: 250", ["content wanted", "ended 250 [250] 354 250"],
                 id="relayed-replies-one-by-one"),
    pytest.param(3, f"C: {GROUP3}\nS: 250|250|450|550|354\nS: 250",
                 ["content wanted", "ended 250 [250, 450, 550] 354 250"], id="30-mixed-recipients"),
    pytest.param(1, f"C: {GROUP}\nS: 250|251|351\nS: 299", ["content wanted", "ended 250 [251] 351 299"],
                 id="20-unknown-codes-by-first-digit"),
    pytest.param(1, f"C: {GROUP}\nS: 599|499|554", ["ended 599 [499] 554 -"], id="20-unknown-no-by-first-digit"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|354\nS: 451", ["content wanted", "ended 250 [250] 354 451"],
                 id="content-deferred"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|354\nS: 550", ["content wanted", "ended 250 [250] 354 550"],
                 id="44-content-refused"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|451", ["ended 250 [250] 451 -"], id="data-refused"),
    pytest.param(1, f"C: {GROUP}\nS: 550|503|503", ["ended 550 [503] 503 -"], id="mail-refused"),
    pytest.param(1, f"C: {GROUP}\nS: 550|250|354\nC: .\nS: 250", ["ended 550 [250] 354 -"],
                 id="mail-refused-but-the-rest-taken"),
    pytest.param(3, f"C: {GROUP3}\nS: 250|550|550|550|354\nC: .\nS: 554", ["ended 250 [550, 550, 550] 354 -"],
                 id="29-all-recipients-refused-but-354"),
    pytest.param(1, f"C: {GROUP}\nS: 250|550|354\nC: .\nS: 250", ["ended 250 [550] 354 -"],
                 id="29-lone-dot-taken-for-a-message"),
    pytest.param(3, f"C: {GROUP3}\nS: 250|550|450|552|554", ["ended 250 [550, 450, 552] 554 -"],
                 id="all-recipients-refused"),
    pytest.param(1, f"C: {GROUP}\nS: 354", ["error"], id="18-354-to-mail"),
    pytest.param(1, f"C: {GROUP}\nS: 250|354", ["error"], id="18-354-to-rcpt"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|250", ["error"], id="19-250-to-data"),
    pytest.param(1, f"C: {GROUP}\nS: 250|550|250", ["error"], id="19-250-to-data-of-nobody"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|354\nS: 354", ["content wanted", "error"], id="354-to-the-dot"),
    pytest.param(1, f"C: {GROUP}\nS: 250|354|250", ["error"], id="28-group-short-by-one"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|250|250|354|354", ["error"], id="28-double-replies"),
    pytest.param(1, f"C: {GROUP}\nS: 250 hello|garbage", ["error"], id="garbage-in-a-group"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250-a|550 b", ["error"], id="25-mismatched-codes"),
    pytest.param(3, f"C: {GROUP3}\nS: 421", ["ended 421 [-, -, -] - -"], id="17-421-to-mail"),
    pytest.param(3, f"C: {GROUP3}\nS: 250|550|421", ["ended 250 [550, 421, -] - -"], id="17-421-to-rcpt"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|421", ["ended 250 [250] 421 -"], id="17-421-to-data"),
    pytest.param(1, f"C: {GROUP}\nS: 250|250|354\nS: 421", ["content wanted", "ended 250 [250] 354 421"],
                 id="17-421-to-the-dot"),
    pytest.param(1, f"C: {GROUP}\nS: 250|550|354\nC: .\nS: 421", ["ended 250 [550] 354 -"], id="17-421-to-a-lone-dot"),
]  # fmt: skip


@pytest.mark.parametrize(("recipients", "script", "expected"), PIPELINED)
def test_pipelined_transaction(recipients: int, script: str, expected: list[str]) -> None:
    """One write carries MAIL, RCPT and DATA; whatever the host says to it ends in one event or one error."""
    client = session("PIPELINING")
    client.begin(transaction(*["c@d", "e@f", "g@h"][:recipients]))

    assert play(client, script) == expected
    broken = expected[-1] == "error" or "421" in script
    assert client.is_closed is broken
    assert client.is_idle is not broken


ONE_BY_ONE = [
    pytest.param(1, "C: MAIL FROM:<a@b>\nS: 250\nC: RCPT TO:<c@d>\nS: 250\nC: DATA\nS: 354\nS: 250",
                 ["content wanted", "ended 250 [250] 354 250"], id="relayed"),
    pytest.param(2, "C: MAIL FROM:<a@b>\nS: 250\nC: RCPT TO:<c@d>\nS: 550\nC: RCPT TO:<e@f>\nS: 250\nC: DATA\nS: 451",
                 ["ended 250 [550, 250] 451 -"], id="data-refused"),
    pytest.param(2, "C: MAIL FROM:<a@b>\nS: 550", ["ended 550 [-, -] - -"], id="mail-refused"),
    pytest.param(2, "C: MAIL FROM:<a@b>\nS: 250\nC: RCPT TO:<c@d>\nS: 450\nC: RCPT TO:<e@f>\nS: 550",
                 ["ended 250 [450, 550] - -"], id="all-recipients-refused-no-data-sent"),
    pytest.param(2, "C: MAIL FROM:<a@b>\nS: 250\nC: RCPT TO:<c@d>\nS: 421", ["ended 250 [421, -] - -"],
                 id="17-421-to-rcpt"),
    pytest.param(1, "C: MAIL FROM:<a@b>\nS: 250|250", ["error"], id="28-answers-before-it-is-asked"),
]  # fmt: skip


@pytest.mark.parametrize(("recipients", "script", "expected"), ONE_BY_ONE)
def test_transaction_without_pipelining(recipients: int, script: str, expected: list[str]) -> None:
    """A host that does not offer PIPELINING gets one command at a time."""
    client = session("SIZE 0x")
    client.begin(Transaction("a@b", tuple(["c@d", "e@f"][:recipients]), 18, Body.SEVEN_BIT, False))
    script = script.replace("<a@b>", "<a@b> SIZE=18")

    assert play(client, script) == expected


AFTER_FAILURE = [
    pytest.param("S: 250|550|554", True, id="recipients-refused"),
    pytest.param("S: 250|250|451", True, id="data-refused"),
    pytest.param("S: 550|250|503", True, id="mail-refused-but-a-recipient-taken"),
    pytest.param("S: 550|503|503", False, id="mail-refused"),
    pytest.param("S: 250|550|354\nC: .\nS: 250", False, id="ended-by-a-lone-dot"),
    pytest.param("S: 250|250|354\nS: 554", False, id="content-refused"),
    pytest.param("S: 250|250|354\nS: 250", False, id="relayed"),
]


@pytest.mark.parametrize(("script", "reset"), AFTER_FAILURE)
def test_next_transaction_begins_with_rset_only_when_something_is_open(script: str, reset: bool) -> None:
    """One refused message does not spoil the next on the same session (44)."""
    client = session("PIPELINING")
    client.begin(transaction())
    play(client, f"C: {GROUP}\n{script}")

    client.begin(transaction())
    events = play(client, f"C: {'RSET|' if reset else ''}{GROUP}\nS: {'250|' if reset else ''}250|250|354\nS: 250")

    assert events == ["content wanted", "ended 250 [250] 354 250"]


def test_rset_is_paid_once() -> None:
    """RSET goes before the next MAIL, not before every later one."""
    client = session("PIPELINING")
    client.begin(transaction())
    play(client, f"C: {GROUP}\nS: 250|250|451")
    client.begin(transaction())
    play(client, f"C: RSET|{GROUP}\nS: 250|250|250|354\nS: 250")

    client.begin(transaction())

    assert client.take_output() == octets(GROUP)


def test_new_ehlo_resets_too() -> None:
    """EHLO voids what was open (RFC 5321 4.1.4): no RSET is owed after it."""
    client = session("PIPELINING")
    client.begin(transaction())
    play(client, f"C: {GROUP}\nS: 250|250|451")
    client.hello("relay.example")
    play(client, "C: EHLO relay.example\nS: 250-mx|250 PIPELINING")

    client.begin(transaction())

    assert client.take_output() == octets(GROUP)


def test_rset_without_pipelining_waits_for_its_reply() -> None:
    """RSET and MAIL do not share a write where the host does not offer that."""
    client = session()
    client.begin(transaction())
    play(client, "C: MAIL FROM:<a@b>\nS: 250\nC: RCPT TO:<c@d>\nS: 550")

    client.begin(transaction())

    assert play(client, "C: RSET\nS: 250\nC: MAIL FROM:<a@b>\nS: 550") == ["ended 550 [-] - -"]


def test_refused_rset_is_not_the_next_messages_fault() -> None:
    """A host that will not forget the last transaction is given up; its 503 to the next MAIL is not believed."""
    client = session("PIPELINING")
    client.begin(transaction())
    play(client, f"C: {GROUP}\nS: 250|250|451")
    client.begin(transaction())

    assert play(client, f"C: RSET|{GROUP}\nS: 502|503|503|503") == ["error"]
    assert client.heard is None
    assert client.step is Step.RSET


def test_421_to_rset_ends_the_next_transaction_unjudged() -> None:
    """The host closes just as the next message begins: that message is told 421, and nothing else."""
    client = session("PIPELINING")
    client.begin(transaction())
    play(client, f"C: {GROUP}\nS: 250|250|451")
    client.begin(transaction())

    assert play(client, f"C: RSET|{GROUP}\nS: 421") == ["ended 421 [-] - -"]
    assert client.is_closed


def test_hundreds_of_recipients_go_in_bounded_groups() -> None:
    """A group holds at most 100 recipients; DATA comes with the last one (31: a 452 to one of them is its own)."""
    client = session("PIPELINING")
    client.begin(transaction(*[f"r{n}@d" for n in range(250)]))
    sizes = []

    for reply in ("250", "250", "452"):
        commands = client.take_output().decode().splitlines()
        sizes.append((commands[0].split()[0], len(commands), commands[-1].split()[0]))
        client.receive(b"".join(b"354\r\n" if c == "DATA" else f"{reply}\r\n".encode() for c in commands))
        events = drain(client)

    assert sizes == [("MAIL", 100, "RCPT"), ("RCPT", 100, "RCPT"), ("RCPT", 52, "DATA")]
    assert events == ["content wanted"]
    client.content_end()
    client.receive(b"250\r\n")
    ended = client.next_event()
    assert isinstance(ended, TransactionEnded)
    assert [reply.code for reply in ended.recipients if reply] == [250] * 199 + [452] * 51


def test_refused_mail_ends_a_long_transaction_after_its_first_group() -> None:
    """Nothing more is asked of a host that refused the message."""
    client = session("PIPELINING")
    client.begin(transaction(*[f"r{n}@d" for n in range(250)]))
    client.take_output()

    client.receive(b"550\r\n" + b"503\r\n" * 99)

    assert drain(client) == [f"ended 550 [{', '.join(['503'] * 99 + ['-'] * 151)}] - -"]
    assert client.take_output() == b""


def test_101st_recipient_too_many() -> None:
    """A host that takes 100 recipients and says 452 to the next still gets the message for the 100 (31)."""
    client = session("PIPELINING")
    client.begin(transaction(*[f"r{n}@d" for n in range(100)], "r101@d"))
    client.take_output()
    client.receive(b"250\r\n" * 100)
    assert drain(client) == []
    assert client.take_output() == b"RCPT TO:<r99@d>\r\nRCPT TO:<r101@d>\r\nDATA\r\n"

    client.receive(b"250\r\n452 4.5.3 Too many recipients\r\n354\r\n")

    assert drain(client) == ["content wanted"]


PARAMETERS = [
    pytest.param([], transaction(), "MAIL FROM:<a@b>", id="nothing-offered"),
    pytest.param(["SIZE"], transaction(), "MAIL FROM:<a@b> SIZE=18", id="size-without-limit"),
    pytest.param(["SIZE 100000"], transaction(), "MAIL FROM:<a@b> SIZE=18", id="size"),
    pytest.param([], transaction(body=Body.EIGHT_BIT_MIME), "MAIL FROM:<a@b>", id="8bit-not-offered"),
    pytest.param(["8BITMIME"], transaction(), "MAIL FROM:<a@b>", id="8bit-not-declared"),
    pytest.param(["8BITMIME"], transaction(body=Body.EIGHT_BIT_MIME), "MAIL FROM:<a@b> BODY=8BITMIME", id="8bit"),
    pytest.param([], transaction(smtputf8=True), "MAIL FROM:<a@b>", id="smtputf8-not-offered-nor-needed"),
    pytest.param(["SMTPUTF8"], transaction(smtputf8=True), "MAIL FROM:<a@b> SMTPUTF8", id="smtputf8"),
    pytest.param(["SMTPUTF8"], transaction(), "MAIL FROM:<a@b>", id="smtputf8-not-asked"),
    pytest.param(
        ["SIZE", "8BITMIME", "SMTPUTF8"],
        Transaction("ä@ö", ("ü@d",), 5, Body.EIGHT_BIT_MIME, True),
        "MAIL FROM:<ä@ö> SIZE=5 BODY=8BITMIME SMTPUTF8",
        id="all",
    ),
    pytest.param([], Transaction("", ("c@d",), 5, Body.SEVEN_BIT, False), "MAIL FROM:<>", id="null-path"),
]


@pytest.mark.parametrize(("offers", "sent", "mail"), PARAMETERS)
def test_parameters_are_sent_only_where_offered(offers: list[str], sent: Transaction, mail: str) -> None:
    """MAIL carries what the message needs and the host knows, and nothing else."""
    client = session(*offers)

    client.begin(sent)

    assert client.take_output() == f"{mail}\r\n".encode()


@pytest.mark.parametrize(
    ("offers", "sent"),
    [
        pytest.param([], Transaction("ä@b", ("c@d",), 5, Body.SEVEN_BIT, True), id="utf8-path-not-offered"),
        pytest.param(["SMTPUTF8"], Transaction("a@b", ("ä@d",), 5, Body.SEVEN_BIT, False), id="utf8-path-not-asked"),
        pytest.param(["SIZE 70000"], Transaction("a@b", ("c@d",), 70_001, Body.SEVEN_BIT, False), id="too-large"),
        pytest.param([], Transaction("a@b", (), 5, Body.SEVEN_BIT, False), id="no-recipient"),
        pytest.param([], Transaction("a@b", ("c@d", ""), 5, Body.SEVEN_BIT, False), id="null-recipient"),
        pytest.param([], Transaction("a@b", ("c@d", "c\r\n@d"), 5, Body.SEVEN_BIT, False), id="crlf-in-the-last"),
    ],
)
def test_what_cannot_be_sent_changes_nothing(offers: list[str], sent: Transaction) -> None:
    """A transaction that cannot be sent here writes nothing and leaves the session ready for the next."""
    client = session("PIPELINING", *offers)

    with pytest.raises(LocalProtocolError):
        client.begin(sent)

    assert client.take_output() == b""
    assert client.is_idle
    assert client.heard is None
    client.begin(transaction())
    assert client.take_output().startswith(b"MAIL FROM:<a@b>")


def test_ehlo_refused_falls_back_to_helo() -> None:
    """An old host that knows only HELO gets mail without extensions (35)."""
    for code in (500, 501, 502, 504, 550):
        client = SmtpClient()
        client.receive(b"220 old\r\n")
        drain(client)
        client.hello("relay.example")

        events = play(client, f"C: EHLO relay.example\nS: {code} what?\nC: HELO relay.example\nS: 250 hello")

        assert events == ["HelloAnswered 250"]
        assert client.extensions == Extensions()
        client.begin(transaction(body=Body.EIGHT_BIT_MIME))
        assert client.take_output() == b"MAIL FROM:<a@b>\r\n"


@pytest.mark.parametrize(
    ("script", "expected", "closed"),
    [
        ("C: EHLO r\nS: 451", ["HelloAnswered 451"], False),
        ("C: EHLO r\nS: 421", ["HelloAnswered 421"], True),
        ("C: EHLO r\nS: 354", ["error"], True),
        ("C: EHLO r\nS: 550\nC: HELO r\nS: 550", ["HelloAnswered 550"], False),
        ("C: EHLO r\nS: 550\nC: HELO r\nS: 421", ["HelloAnswered 421"], True),
        ("C: EHLO r\nS: 550|250", ["error"], True),
        ("C: EHLO r\nS: 250-a|250-b", [], False),
    ],
)
def test_ehlo_answers(script: str, expected: list[str], closed: bool) -> None:
    """Whatever the host says to EHLO becomes one answer, and no extensions are known unless it was positive."""
    client = SmtpClient()
    client.receive(b"220\r\n")
    drain(client)
    client.hello("r")

    assert play(client, script) == expected
    assert client.is_closed is closed
    assert client.extensions is None


@pytest.mark.parametrize(
    ("greeting", "expected", "closed"),
    [
        (b"220 hi\r\n", ["BannerReceived 220"], False),
        (b"220-hi\r\n220 there\r\n", ["BannerReceived 220"], False),
        (b"554 go away\r\n", ["BannerReceived 554"], False),
        (b"521 no mail here\r\n", ["BannerReceived 521"], False),
        (b"421 busy\r\n", ["BannerReceived 421"], True),
        (b"354 go\r\n", ["error"], True),
        (b"SSH-2.0-OpenSSH\r\n", ["error"], True),
        (b"220 hi\r\n250 and more\r\n", ["BannerReceived 220", "error"], True),
        (b"220 hi\r\n421 and gone\r\n", ["BannerReceived 220", "ClosingReceived 421"], True),
        (b"\x16\x03\x01\x02\x00\x01" * 1000, ["error"], True),
    ],
)
def test_greetings(greeting: bytes, expected: list[str], closed: bool) -> None:
    """Banners of all kinds (17, 28, 34): a greeting is one reply, and what follows it unasked is an error."""
    client = SmtpClient()

    client.receive(greeting)

    assert drain(client) == expected
    assert client.is_closed is closed


def test_reply_sent_before_its_command_is_not_believed() -> None:
    """A host that answers EHLO before it came (28) is not taken at its word, even if nobody looked in between."""
    client = SmtpClient()
    client.receive(b"220 hi\r\n250 PIPELINING\r\n")
    assert isinstance(client.next_event(), BannerReceived)

    client.hello("relay.example")

    with pytest.raises(RemoteProtocolError, match="before it was asked"):
        client.next_event()


@pytest.mark.parametrize("more", [b"250 queued, honestly\r\n", b"2", b"552 no\r\n", b"\r\n"])
def test_more_than_354_is_an_error_before_any_content_is_sent(more: bytes) -> None:
    """A 250 sent along with the 354 is no delivery, and it is noticed while another host can still be tried."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()

    client.receive(b"250\r\n250\r\n354\r\n" + more)

    assert drain(client) == ["error"]
    assert client.step is Step.DATA


def test_positive_reply_while_content_is_sent_is_an_error_before_the_dot() -> None:
    """The same a moment later: still nothing is ambiguous."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()
    client.receive(b"250\r\n250\r\n354\r\n")
    assert drain(client) == ["content wanted"]

    client.receive(b"250 queued, honestly\r\n")

    assert drain(client) == ["error"]
    assert client.step is Step.CONTENT


def test_250_that_was_there_before_the_dot_does_not_count_as_delivery() -> None:
    """Even a driver that does not look while it sends does not lose the message: it is ambiguous, not relayed."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()
    client.receive(b"250\r\n250\r\n354\r\n")
    assert drain(client) == ["content wanted"]
    client.receive(b"250 queued, honestly\r\n")

    client.content_end()

    assert drain(client) == ["error"]
    assert client.step is Step.FINAL


@pytest.mark.parametrize("code", [421, 451, 552])
def test_content_refused_before_its_end(code: int) -> None:
    """A host that refuses in mid-content is believed, and the session is over: it may take the rest for commands."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()
    client.receive(b"250\r\n250\r\n354\r\n")
    assert drain(client) == ["content wanted"]
    client.content([b"first part"])

    client.receive(f"{code} enough\r\n".encode())

    assert drain(client) == [f"ended 250 [250] 354 {code}"]
    assert client.is_closed
    with pytest.raises(LocalProtocolError):
        client.content([b"more"])


def test_no_that_came_before_the_dot_was_written_is_the_answer_to_the_content() -> None:
    """The refusal was in the buffer, unread, when the final dot was queued."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()
    client.receive(b"250\r\n250\r\n354\r\n")
    drain(client)
    client.receive(b"552 enough\r\n")

    client.content_end()

    assert drain(client) == ["ended 250 [250] 354 552"]


def test_content_in_pieces_keeps_its_dots() -> None:
    """Content given in several calls is stuffed as one."""
    client = session("PIPELINING")
    client.begin(transaction())
    client.take_output()
    client.receive(b"250\r\n250\r\n354\r\n")
    drain(client)

    pieces = [*client.content([b"a\r", b"\n"]), *client.content([b".b"])]
    client.content_end()

    assert b"".join(pieces) + client.take_output() == b"a\r\n..b\r\n.\r\n"


def test_stuffing_starts_afresh_with_each_message() -> None:
    """A message that ends without CRLF does not change how the next begins."""
    client = session("PIPELINING")
    for content, wire in ((b"a", b"a\r\n.\r\n"), (b".", b"..\r\n.\r\n"), (b"", b".\r\n")):
        client.begin(transaction())
        client.take_output()
        client.receive(b"250\r\n250\r\n354\r\n")
        drain(client)
        pieces = client.content([content])
        client.content_end()
        assert b"".join(pieces) + client.take_output() == wire
        client.receive(b"250\r\n")
        assert drain(client) == ["ended 250 [250] 354 250"]


@pytest.mark.parametrize(
    ("said", "expected", "closed"),
    [
        ("421 idle too long", ["ClosingReceived 421"], True),
        ("250 again", ["error"], True),
        ("550 on second thoughts", ["error"], True),
        ("garbage", ["error"], True),
    ],
)
def test_unasked_words_while_idle(said: str, expected: list[str], closed: bool) -> None:
    """Between transactions only 421 may come; anything else means that replies are out of step (28)."""
    client = session("PIPELINING")

    assert play(client, f"S: {said}") == expected
    assert client.is_closed is closed


def test_greylisting_then_acceptance_on_one_session() -> None:
    """450 now and 250 later (42) need no new session."""
    client = session("PIPELINING")
    client.begin(transaction())
    first = play(client, f"C: {GROUP}\nS: 250|450 4.7.1 greylisted|554")
    client.begin(transaction())
    second = play(client, f"C: RSET|{GROUP}\nS: 250|250|250|354\nS: 250")

    assert first == ["ended 250 [450] 554 -"]
    assert second == ["content wanted", "ended 250 [250] 354 250"]


def test_dropped_pipeline_leaves_the_machine_waiting_where_it_hangs() -> None:
    """A host that offers PIPELINING but drops what it pipelined (38) shows as silence at a named step."""
    client = session("PIPELINING")
    client.begin(transaction())

    assert play(client, f"C: {GROUP}\nS: 250") == []
    assert client.step is Step.RCPT
    heard = client.heard
    assert heard is not None
    assert show(heard) == "ended 250 [-] - -"


def test_heard_replies_are_kept_for_a_lost_connection() -> None:
    """A recipient's 550 counts even if the connection dies before the rest is answered."""
    client = session("PIPELINING")
    assert client.heard is None
    client.begin(transaction("c@d", "e@f", "g@h"))
    assert client.heard is None

    assert play(client, f"C: {GROUP3}\nS: 250|550") == []
    heard = client.heard

    assert heard is not None
    assert show(heard) == "ended 250 [550, -, -] - -"


def test_octets_one_at_a_time() -> None:
    """A tarpit that sends one octet at a time (26) gets the same transaction."""
    client = session("PIPELINING")
    client.begin(transaction())
    assert client.take_output() == octets(GROUP)
    events = []

    for octet in b"250-a\r\n250 b\r\n250\r\n354 go\r\n":
        client.receive(bytes([octet]))
        events += drain(client)

    assert events == ["content wanted"]


# -- STARTTLS and AUTH --


def test_starttls_forgets_everything() -> None:
    """After the handshake the host offers anew, and what it offered in clear text no longer counts (41)."""
    client = session("STARTTLS", "PIPELINING", "8BITMIME", "SMTPUTF8")
    client.starttls()
    assert play(client, "C: STARTTLS\nS: 220 go") == ["StarttlsAnswered 220"]
    assert client.step is Step.TLS
    assert not client.is_idle

    client.secured()

    assert client.extensions is None
    with pytest.raises(LocalProtocolError):
        client.begin(transaction())
    client.hello("relay.example")
    assert play(client, "C: EHLO relay.example\nS: 250-mx|250 SIZE") == ["HelloAnswered 250"]
    assert client.extensions == Extensions(size=0)


@pytest.mark.parametrize(
    "injected", [b"250 x\r\n", b"2", b"\r\n", b"421 bye\r\n", b"\x16\x03\x03", b"250-mx\r\n250 AUTH PLAIN\r\n"]
)
def test_octets_after_220_to_starttls_end_the_session(injected: bytes) -> None:
    """Replies injected before the handshake never count as said inside TLS, whoever looks first."""
    for look in ("next_event", "secured"):
        client = session("STARTTLS")
        client.starttls()
        client.take_output()
        client.receive(b"220 go\r\n" + injected)
        assert isinstance(client.next_event(), StarttlsAnswered)
        assert client.has_buffered

        with pytest.raises(RemoteProtocolError):
            getattr(client, look)()

        assert client.is_closed


def test_octets_in_a_later_segment_after_220_are_noticed_too() -> None:
    """It does not matter whether the injected reply comes in the same segment."""
    client = session("STARTTLS")
    client.starttls()
    client.take_output()
    client.receive(b"220 go\r\n")
    assert drain(client) == ["StarttlsAnswered 220"]
    assert not client.has_buffered

    client.receive(b"250 x\r\n")

    assert client.has_buffered
    assert drain(client) == ["error"]


@pytest.mark.parametrize("code", [221, 250, 454, 500, 501, 502, 530])
def test_starttls_without_220_leaves_the_session_in_clear_text(code: int) -> None:
    """Only 220 begins TLS; any other answer is handed on, and secured() is refused."""
    client = session("STARTTLS")
    client.starttls()
    client.take_output()
    client.receive(f"{code} no\r\n".encode())

    assert drain(client) == [f"StarttlsAnswered {code}"]
    assert client.is_idle
    with pytest.raises(LocalProtocolError):
        client.secured()


@pytest.mark.parametrize(("code", "expected"), [(354, "error"), (421, "StarttlsAnswered 421")])
def test_odd_answers_to_starttls_close(code: int, expected: str) -> None:
    """354 makes no sense there; 421 is the end."""
    client = session("STARTTLS")
    client.starttls()
    client.take_output()
    client.receive(f"{code} no\r\n".encode())

    assert drain(client) == [expected]
    assert client.is_closed


AUTH = [
    pytest.param("AUTH PLAIN LOGIN", "C: AUTH PLAIN AHUAcA==\nS: 235 2.7.0 ok", ["AuthAnswered 235"], id="plain"),
    pytest.param("AUTH PLAIN", "C: AUTH PLAIN AHUAcA==\nS: 535 5.7.8 no", ["AuthAnswered 535"], id="plain-refused"),
    pytest.param("AUTH PLAIN", "C: AUTH PLAIN AHUAcA==\nS: 421", ["AuthAnswered 421"], id="plain-421"),
    pytest.param("AUTH PLAIN", "C: AUTH PLAIN AHUAcA==\nS: 334 ", ["error"], id="plain-asked-again"),
    pytest.param("AUTH LOGIN", "C: AUTH LOGIN\nS: 334 VXNlcg==\nC: dQ==\nS: 334 UGFzcw==\nC: cA==\nS: 235",
                 ["AuthAnswered 235"], id="login"),
    pytest.param("AUTH=LOGIN", "C: AUTH LOGIN\nS: 334\nC: dQ==\nS: 535", ["AuthAnswered 535"], id="login-user-refused"),
    pytest.param("AUTH LOGIN", "C: AUTH LOGIN\nS: 504", ["AuthAnswered 504"], id="login-refused"),
    pytest.param("AUTH LOGIN", "C: AUTH LOGIN\nS: 334\nC: dQ==\nS: 334\nC: cA==\nS: 334", ["error"],
                 id="login-asks-a-third-time"),
    pytest.param("AUTH LOGIN", "C: AUTH LOGIN\nS: 334|334", ["error"], id="login-asks-before-it-was-answered"),
]  # fmt: skip


@pytest.mark.parametrize(("offer", "script", "expected"), AUTH)
def test_auth(offer: str, script: str, expected: list[str]) -> None:
    """PLAIN where offered, else LOGIN; the host's last word is one event."""
    client = session(offer)
    client.auth_plain(Credentials("u", "p"))

    assert play(client, script) == expected


def test_auth_that_was_not_offered_sends_no_password() -> None:
    """Without a mechanism we speak, nothing of the credentials leaves."""
    client = session("AUTH CRAM-MD5 XOAUTH2")

    with pytest.raises(LocalProtocolError):
        client.auth_plain(Credentials("u", "p"))

    assert client.take_output() == b""
    assert client.is_idle


# -- order --


def test_quit_is_answered_or_not() -> None:
    """QUIT ends the session whatever the host says to it."""
    for code in (221, 250, 354, 421, 500):
        client = session()
        client.quit()
        assert play(client, f"C: QUIT\nS: {code}") == [f"ClosingReceived {code}"]
        assert client.is_closed


def test_closed_machine_is_deaf_and_dumb() -> None:
    """After its end nothing is heard and nothing can be asked."""
    client = session("PIPELINING", "STARTTLS")
    client.receive(b"421\r\n")
    assert isinstance(client.next_event(), ClosingReceived)

    for _ in range(3):
        client.receive(b"250 x\r\n" * 1_000_000)

    assert client.next_event() is None
    assert not client.has_buffered
    for verb in (client.quit, client.starttls, client.secured, client.content_end):
        with pytest.raises(LocalProtocolError):
            verb()
    with pytest.raises(LocalProtocolError):
        client.begin(transaction())


def test_commands_out_of_order_are_our_bug() -> None:
    """Before the banner, before EHLO and during a transaction nothing else may be asked."""
    client = SmtpClient()
    with pytest.raises(LocalProtocolError, match="banner"):
        client.hello("relay.example")
    client.receive(b"220\r\n")
    drain(client)
    for verb in (client.starttls, client.secured, client.content_end):
        with pytest.raises(LocalProtocolError):
            verb()
    with pytest.raises(LocalProtocolError):
        client.auth_plain(Credentials("u", "p"))
    with pytest.raises(LocalProtocolError):
        client.begin(transaction())
    with pytest.raises(LocalProtocolError):
        client.content([b""])
    client = session("PIPELINING")
    client.begin(transaction())
    with pytest.raises(LocalProtocolError, match="mail"):
        client.begin(transaction())
    with pytest.raises(LocalProtocolError, match="mail"):
        client.hello("r")
    with pytest.raises(LocalProtocolError, match="mail"):
        client.quit()


@pytest.mark.parametrize("name", ["", "a b", "a\r\nRCPT TO:<x@y>", "a\n", "a\0", "a>", "a<", "ä.example", "a\x7f"])
def test_unfit_name_for_ehlo(name: str) -> None:
    """The name we give cannot carry a second command."""
    client = SmtpClient()
    client.receive(b"220\r\n")
    drain(client)

    with pytest.raises(LocalProtocolError):
        client.hello(name)

    assert client.take_output() == b""


def test_every_step_that_waits_for_a_reply_has_a_taker() -> None:
    """The table is complete: a new step cannot be forgotten."""
    at_rest = {Step.CONNECT, Step.TLS, Step.IDLE, Step.CONTENT}

    assert set(_TAKERS) == set(Step) - at_rest


def test_answers_have_the_names_the_driver_matches_on() -> None:
    """Each answer comes as its own event with the whole reply."""
    client = SmtpClient()
    client.receive(b"220 hi\r\n")
    banner = client.next_event()
    client.hello("r")
    client.receive(b"250-mx\r\n250 AUTH PLAIN\r\n")
    hello = client.next_event()
    client.auth_plain(Credentials("u", "p"))
    client.receive(b"235 2.7.0 welcome\r\n")
    auth = client.next_event()

    assert isinstance(banner, BannerReceived)
    assert isinstance(hello, HelloAnswered)
    assert hello.reply.lines == ("mx", "AUTH PLAIN")
    assert isinstance(auth, AuthAnswered)
    assert auth.reply.enhanced == "2.7.0"
