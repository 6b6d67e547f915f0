# SPDX-License-Identifier: MIT
"""BDAT in the client machine (RFC 3030): never to a host that accepted nobody, never more than it asked for."""

import pytest
from tests.smtp.transcripts import drain, octets, session, transaction

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.smtp.client import CHUNK_WINDOW, SmtpClient
from smarthost.smtp.steps import Step

OFFERS = ("CHUNKING", "BINARYMIME")
MAIL = b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n"
RCPTS = b"RCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n"
LAST = b"BDAT 0 LAST\r\n"
NUL = b"\0\r.\n.\r\n"  # what DATA could never carry


def begun(*replies: str, offers: tuple[str, ...] = (*OFFERS, "PIPELINING")) -> tuple[SmtpClient, list[str]]:
    """Give a session with a binary transaction whose MAIL and RCPTs were answered so, and the events."""
    client = session(*offers)
    client.begin(transaction("c@d", "e@f", body=Body.BINARY_MIME))
    assert client.take_output() == MAIL + RCPTS
    client.receive(octets("|".join(replies)))
    return client, drain(client)


def wanted(*offers: str) -> SmtpClient:
    """Give a session that may send chunks now."""
    client, events = begun("250 ok", "250 ok", "550 no", offers=(*OFFERS, "PIPELINING", *offers))
    assert events == ["content wanted"]
    return client


def test_chunks_follow_each_other_and_last_waits_for_their_answers() -> None:
    """The host's word on the whole is heard only after it has taken every chunk, octet for octet, dots and all."""
    client = wanted()

    assert client.content([NUL, b"x" * 10]) == [b"BDAT 7\r\n", NUL, b"BDAT 10\r\n", b"x" * 10]
    client.content_end()
    assert client.take_output() == b""
    assert client.step == "chunk"  # a loss here is not ambiguous: the host cannot have it
    client.receive(octets("250 7 octets"))
    assert drain(client) == []
    client.receive(octets("250 10 octets"))
    assert drain(client) == []
    assert client.take_output() == LAST
    assert client.step == "final"
    client.receive(octets("250 2.0.0 queued"))

    assert drain(client) == ["ended 250 [250, 550] - 250"]
    assert client.is_idle


def test_without_pipelining_each_chunk_waits_for_its_answer() -> None:
    """One chunk, one reply; the driver is told when to go on."""
    client = session(*OFFERS)
    client.begin(transaction("c@d", body=Body.BINARY_MIME))
    for command in (MAIL, b"RCPT TO:<c@d>\r\n"):
        assert client.take_output() == command
        client.receive(octets("250 ok"))
        events = drain(client)
    assert events == ["content wanted"]

    client.content([NUL])
    assert not client.takes_content
    with pytest.raises(LocalProtocolError):
        client.content([NUL])
    client.receive(octets("250 ok"))
    assert drain(client) == ["content wanted"]
    assert client.takes_content
    client.content([b"y"])
    client.receive(octets("250 ok"))
    assert drain(client) == ["content wanted"]
    client.content_end()
    assert client.take_output() == LAST
    client.receive(octets("250 ok"))

    assert drain(client) == ["ended 250 [250] - 250"]


def test_chunks_under_way_are_bounded() -> None:
    """So many and no more: each has its answer due, and the rest waits for room."""
    client = wanted()

    client.content([b"x"] * CHUNK_WINDOW)

    assert not client.takes_content
    with pytest.raises(LocalProtocolError):
        client.content([b"x"])
    client.receive(octets("250 ok|250 ok"))
    assert drain(client) == ["content wanted", "content wanted"]
    assert len(client.content([b"x", b"x"])) == 4


def test_a_host_that_accepted_nobody_gets_no_content() -> None:
    """No BDAT, not even an empty one: the transaction ends where the last recipient was refused."""
    client, events = begun("250 ok", "550 no", "450 later")

    assert events == ["ended 250 [550, 450] - -"]
    assert client.take_output() == b""
    with pytest.raises(LocalProtocolError):
        client.content([NUL])


@pytest.mark.parametrize("code", [421, 452, 503, 552, 554])
def test_a_refused_chunk_ends_the_transaction(code: int) -> None:
    """The reply to the chunk is the host's word; those under way are waited for, and no LAST is sent."""
    client = wanted()
    client.content([b"x", b"y"])

    client.receive(octets(f"{code} no"))
    if code == 421:
        assert drain(client) == ["ended 250 [250, 550] 421 -"]
        assert client.is_closed
        return
    assert drain(client) == []
    assert not client.takes_content
    client.receive(octets("503 no transaction"))

    assert drain(client) == [f"ended 250 [250, 550] {code} -"]
    assert client.is_idle
    client.begin(transaction())
    assert client.take_output().startswith(b"RSET\r\n")  # RFC 3030 2: the state is indeterminate


def test_a_chunk_refused_after_the_content_was_told_complete_gets_no_last() -> None:
    """The driver has given everything; the host's no to a chunk still means that no LAST leaves."""
    client = wanted()
    client.content([b"x", b"y"])
    client.content_end()

    client.receive(octets("250 ok|452 full"))

    assert drain(client) == ["ended 250 [250, 550] 452 -"]
    assert client.take_output() == b""


@pytest.mark.parametrize("code", [500, 501, 502, 504])
def test_37_a_host_that_does_not_know_bdat_is_told_nothing_more(code: int) -> None:
    """It offers CHUNKING and then takes the content for commands: the session is over, whatever it says to those."""
    client = wanted()
    client.content([b"RSET\r\nMAIL FROM:<evil@x>\r\n"])

    client.receive(octets(f"{code} what?|250 reset|250 ok"))

    assert drain(client) == [f"ended 250 [250, 550] {code} -"]
    assert client.is_closed
    assert client.take_output() == b""


@pytest.mark.parametrize(("code", "reset"), [(250, False), (451, True), (554, True)])
def test_the_word_on_last_is_final(code: int, reset: bool) -> None:
    """A no to BDAT LAST is the content's, as after a dot; the transaction may still be open there."""
    client = wanted()
    client.content_end()  # nothing at all to send is legal
    assert client.take_output() == LAST

    client.receive(octets(f"{code} so"))

    assert drain(client) == [f"ended 250 [250, 550] - {code}"]
    client.begin(transaction())
    assert client.take_output().startswith(b"RSET\r\n") is reset


def test_loss_after_last_is_ambiguous_and_before_it_is_not() -> None:
    """Where the connection breaks decides whether the host may have the message."""
    client = wanted()
    client.content([NUL])
    before = client.step
    client.content_end()
    client.receive(octets("250 ok"))
    drain(client)

    assert (before, client.step) == (Step.CHUNK, Step.FINAL)
    assert client.heard is not None
    assert [reply.code for reply in client.heard.recipients if reply] == [250, 550]


def test_more_than_was_asked_before_content_is_an_error() -> None:
    """28: a reply too many to the group would be taken for the first chunk's."""
    _, events = begun("250 ok", "250 ok", "250 ok", "250 ok")

    assert events == ["error"]


def test_a_reply_before_its_chunk_is_an_error() -> None:
    """Nobody asked for it; a positive one would count for content the host never saw."""
    client = wanted()

    client.receive(octets("250 ok"))

    assert drain(client) == ["error"]


def test_a_reply_that_was_there_before_its_chunk_is_not_believed() -> None:
    """It came in the same moment as we wrote; it cannot speak of content the host had not seen."""
    client = wanted()

    client.receive(octets("250 ok"))
    client.content([b"x"])

    assert drain(client) == ["error"]


def test_empty_pieces_make_no_chunk() -> None:
    """A chunk of nothing asks for an answer of nothing, and some hosts refuse it."""
    client = wanted()

    assert client.content([b"", b"x", b""]) == [b"BDAT 1\r\n", b"x"]


def test_double_replies_to_chunks_never_become_the_final_one() -> None:
    """The second 250 to one chunk comes before LAST has left, so it cannot be taken for the word on the whole."""
    client = wanted()
    client.content([b"x"])
    client.content_end()
    client.receive(octets("250 ok|250 ok"))

    events = drain(client)

    assert events == ["error"]


def test_a_host_may_refuse_content_between_chunks() -> None:
    """A no that nobody asked for is the host's last word: the session ends, the mail may be tried elsewhere."""
    client = wanted()

    client.receive(octets("451 shutting down"))

    assert drain(client) == ["ended 250 [250, 550] 451 -"]
    assert client.is_closed


@pytest.mark.parametrize("said", ["354 go", "garbage", "250-a|550 b"])
def test_what_is_no_answer_to_a_chunk_ends_the_session(said: str) -> None:
    """18, 25: an intermediate reply, no reply at all, and one of two minds."""
    client = wanted()
    client.content([b"x"])

    client.receive(octets(said))

    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.is_closed


@pytest.mark.parametrize("offers", [[], ["CHUNKING"], ["BINARYMIME"], ["8BITMIME", "PIPELINING"]])
def test_binary_content_goes_only_where_it_is_understood(offers: list[str]) -> None:
    """BINARYMIME without CHUNKING means nothing (RFC 3030 3); nothing is written, and the session stays usable."""
    client = session(*offers)

    with pytest.raises(LocalProtocolError):
        client.begin(transaction(body=Body.BINARY_MIME))

    assert client.take_output() == b""
    assert client.is_idle


def test_hundreds_of_recipients_are_asked_in_groups_before_any_chunk() -> None:
    """As for DATA: at most 100 RCPTs unanswered, and the content only when all are."""
    client = session(*OFFERS, "PIPELINING")
    client.begin(transaction(*[f"u{n}@d" for n in range(150)], body=Body.BINARY_MIME))

    groups = []
    events: list[str] = []
    while group := client.take_output():
        groups.append(group.count(b"\r\n"))
        client.receive(octets("|".join(["250 ok"] * groups[-1])))
        events = drain(client)

    assert groups == [100, 51]
    assert events == ["content wanted"]
