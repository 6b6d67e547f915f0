# SPDX-License-Identifier: MIT
"""LMTP in the client machine (RFC 2033): LHLO, and a word for each accepted recipient."""

import pytest
from tests.smtp.transcripts import CONTENT, drain, octets, show, transaction

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp.client import SmtpClient
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

OFFERS = ("PIPELINING", "CHUNKING", "BINARYMIME")


def greeted(*offers: str) -> SmtpClient:
    client = SmtpClient(is_lmtp=True)
    client.receive(b"220 store LMTP\r\n")
    drain(client)
    client.hello("relay.example")
    assert client.take_output() == b"LHLO relay.example\r\n"
    client.receive(octets("|".join([f"250-{offer}" for offer in ("store", *offers)] + ["250 HELP"])))
    assert drain(client) == ["HelloAnswered 250"]
    return client


def sent(*answers: int, body: Body = Body.SEVEN_BIT) -> SmtpClient:
    """Give a session in which the recipients were answered so, and whose content is sent, the end included."""
    client = greeted(*OFFERS)
    client.begin(transaction(*[f"u{n}@d" for n in range(len(answers))], body=body))
    client.take_output()
    data = [] if body is Body.BINARY_MIME else ["354 go"]
    client.receive(octets("|".join(["250 ok", *[f"{code} x" for code in answers], *data])))
    assert drain(client) == ["content wanted"]
    client.content([CONTENT])
    client.content_end()
    if not data:
        client.receive(octets("250 chunk"))
        assert drain(client) == []
    client.take_output()
    return client


def end(client: SmtpClient) -> TransactionEnded:
    event = client.next_event()
    assert isinstance(event, TransactionEnded)
    return event


def codes(replies: tuple[Reply | None, ...]) -> list[int | None]:
    return [reply.code if reply else None for reply in replies]


@pytest.mark.parametrize("body", [Body.SEVEN_BIT, Body.BINARY_MIME])
def test_each_accepted_recipient_has_its_own_word(body: Body) -> None:
    """Three of four were accepted: three replies follow, and each finds its recipient."""
    client = sent(250, 550, 250, 250, body=body)

    client.receive(octets("250 2.0.0 kept|552 5.2.2 full"))
    assert client.next_event() is None
    assert client.step is Step.FINAL
    client.receive(octets("450 4.2.1 later"))
    event = end(client)

    assert codes(event.recipients) == [250, 550, 250, 250]
    assert codes(event.finals) == [250, None, 552, 450]
    assert event.final is None
    assert client.is_idle


def test_one_recipient_has_finals_too() -> None:
    """A single reply is still told as that recipient's, so that a caller need not ask which language it was."""
    client = sent(250)

    client.receive(octets("250 kept"))

    event = end(client)
    assert (codes(event.finals), event.final) == ([250], None)


def test_a_goodbye_among_the_words_leaves_the_rest_unheard() -> None:
    """421 to the second of three: the first was heard, the third never was."""
    client = sent(250, 250, 250)

    client.receive(octets("250 kept|421 4.3.2 shutting down|250 never"))
    event = end(client)

    assert codes(event.finals) == [250, 421, None]
    assert client.is_closed


def test_a_loss_among_the_words_keeps_those_heard() -> None:
    """The connection breaks after the first of two: one is told, one is ambiguous."""
    client = sent(250, 550, 250)

    client.receive(octets("250 kept"))
    assert client.next_event() is None

    assert client.heard is not None
    assert codes(client.heard.finals) == [250, None, None]
    assert client.step is Step.FINAL


def test_nothing_is_final_before_the_content_was_sent() -> None:
    """A loss before the dot: no recipient has a final word, not even an empty one."""
    client = greeted(*OFFERS)
    client.begin(transaction("c@d"))
    client.receive(octets("250 ok|250 ok|354 go"))
    drain(client)

    assert client.heard is not None
    assert client.heard.finals == ()


def test_one_word_too_many_is_an_error_after_the_end() -> None:
    """28: two replies for one recipient: its word is heard, and the session ends."""
    client = sent(250)

    client.receive(octets("250 kept|250 kept"))

    assert drain(client) == ["ended 250 [250] 354 -", "error"]
    assert client.is_closed


def test_words_that_were_there_before_the_dot_are_not_believed() -> None:
    """A 250 that came with content still under way answers nothing that was asked."""
    client = greeted(*OFFERS)
    client.begin(transaction("c@d", "e@f"))
    client.receive(octets("250 ok|250 ok|250 ok|354 go"))
    drain(client)
    client.receive(octets("250 kept"))
    client.content_end()

    assert drain(client) == ["error"]


def test_a_refusal_while_content_is_sent_is_everybodys() -> None:
    """The host refuses content whose end it has not seen: that stands for DATA's answer, nobody has a final."""
    client = greeted(*OFFERS)
    client.begin(transaction("c@d", "e@f"))
    client.receive(octets("250 ok|250 ok|250 ok|354 go"))
    drain(client)

    client.receive(octets("451 disk"))
    event = end(client)

    assert (event.data and event.data.code, event.final, event.finals) == (451, None, ())
    assert client.is_closed


def test_354_to_nobody_ends_the_session() -> None:
    """RFC 2033 4.2 forbids it; a lone dot would have no reply, so nothing is waited for and every no stands."""
    client = greeted(*OFFERS)
    client.begin(transaction("c@d", "e@f"))
    client.take_output()

    client.receive(octets("250 ok|550 no|450 later|354 go"))

    assert drain(client) == ["ended 250 [550, 450] 354 -"]
    assert client.is_closed
    assert client.take_output() == b""


def test_lhlo_has_no_fallback() -> None:
    """A host that refuses LHLO speaks SMTP; HELO to it would be another language."""
    client = SmtpClient(is_lmtp=True)
    client.receive(b"220 mx ESMTP\r\n")
    drain(client)
    client.hello("relay.example")
    client.take_output()

    client.receive(octets("500 5.5.1 what?"))

    assert [show(event) for event in [client.next_event()] if event] == ["HelloAnswered 500"]
    assert client.take_output() == b""
    with pytest.raises(LocalProtocolError):
        client.begin(transaction())


def test_no_reset_is_owed_after_an_ordinary_end() -> None:
    """After the last word the next transaction begins with MAIL."""
    client = sent(250, 250)
    client.receive(octets("250 kept|552 full"))
    drain(client)

    client.begin(transaction())

    assert client.take_output().startswith(b"MAIL")
