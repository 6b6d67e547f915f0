# SPDX-License-Identifier: MIT
"""The programmatic door: the same duties and the same replies as at the wire, as values."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from smarthost.accept.inject import Injection
from smarthost.accept.policy import RelayPolicy
from smarthost.mail.envelope import Body, SenderTls
from smarthost.mail.errors import StoreError, StoreFull, SubmissionRefused
from smarthost.mail.identity import IdSource
from smarthost.mail.message import Message
from smarthost.smtp.limits import Limits
from smarthost.testing.clock import FakeClock

CONTENT = b"Subject: x\r\n\r\nbody\r\n"
TO = ("bob@example.net",)


class Counter:
    """The door with everything behind it in the hands of the test; commits at once unless told not to."""

    def __init__(self, *, postmaster: str | None = None) -> None:
        self.clock = FakeClock()
        self.messages: list[Message] = []
        self.waiting: list[Callable[[Exception | None], None]] = []
        self.failure: Exception | None = None
        self.commits = True
        policy = RelayPolicy(("127.0.0.0/8",), postmaster)
        self.door = Injection(
            hostname="relay.example.org",
            limits=Limits(message_octets=70_000, recipients=100),
            clock=self.clock,
            next_id=IdSource(self.clock.wall, 1).next,
            add=self._add,
            route_recipient=policy.route_recipient,
            refuse_recipient=lambda recipient: policy.refuse_recipient(recipient, "local", may_relay=True),
        )

    def _add(self, message: Message, filed: Callable[[Exception | None], None]) -> None:
        self.messages.append(message)
        if self.commits:
            filed(self.failure)
        else:
            self.waiting.append(filed)

    async def refusal(
        self, content: bytes = CONTENT, reverse_path: str = "ann@example.org", recipients: Sequence[str] = TO
    ) -> str:
        """Submit what must be refused and give the reply; nothing may have been filed."""
        with pytest.raises(SubmissionRefused) as refused:
            await self.door.submit(content, reverse_path, recipients)
        assert [] == self.messages
        return str(refused.value.reply)


@pytest.mark.asyncio
async def test_a_message_is_filed_as_a_client_would_have_sent_it() -> None:
    """Content untouched, Received in front of it and apart from it, the receipt names the id in it."""
    counter = Counter()

    receipt = await counter.door.submit(CONTENT, "ann@example.org", ("bob@example.net", "Cid@EXAMPLE.com"))

    (message,) = counter.messages
    assert receipt.id == message.id
    assert CONTENT == b"".join(message.content.chunks())
    assert message.prefix.startswith(b"Received: by ")
    assert b"(local)" in message.prefix
    assert receipt.id.encode() in message.prefix
    assert ["example.net", "example.com"] == [each.domain for each in message.envelope.recipients]
    assert "Cid@EXAMPLE.com" == message.envelope.recipients[1].text
    assert ("ann@example.org", "local") == (message.sender, message.client)


@pytest.mark.asyncio
async def test_the_receipt_comes_after_the_commit() -> None:
    """Until the message is durable the caller waits."""
    counter = Counter()
    counter.commits = False
    submitting = asyncio.ensure_future(counter.door.submit(CONTENT, "ann@example.org", TO))
    await asyncio.sleep(0)
    early = submitting.done()

    counter.waiting[0](None)
    receipt = await submitting

    assert not early
    assert receipt.id == counter.messages[0].id


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [StoreError("broken"), StoreFull("full")])
async def test_a_store_that_fails_raises(failure: StoreError) -> None:
    """The caller knows that nothing was promised."""
    counter = Counter()
    counter.failure = failure

    with pytest.raises(type(failure)):
        await counter.door.submit(CONTENT, "ann@example.org", TO)


@pytest.mark.asyncio
async def test_cancelling_does_not_withdraw_and_does_not_break() -> None:
    """Who stops waiting may find the message delivered; the commit that comes later disturbs nobody."""
    counter = Counter()
    counter.commits = False
    submitting = asyncio.ensure_future(counter.door.submit(CONTENT, "ann@example.org", TO))
    await asyncio.sleep(0)

    submitting.cancel()
    await asyncio.wait([submitting])
    counter.waiting[0](None)
    counter.waiting[0](StoreError("late"))

    assert 1 == len(counter.messages)


@pytest.mark.asyncio
@pytest.mark.parametrize("reverse_path", ["", "ann@example.org", '"a b"@example.org'])
async def test_reverse_paths_of_the_grammar_are_taken(reverse_path: str) -> None:
    """Null, plain and quoted."""
    counter = Counter()

    await counter.door.submit(CONTENT, reverse_path, TO)

    assert reverse_path == counter.messages[0].envelope.reverse_path


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bad",
    [
        "no-at-sign",
        "two words@example.org",
        "a@b@c@",
        "ann@exa mple.org",
        "ann@example.org> SIZE=1",
        "ann@example.org\r\nRCPT TO:<evil@example.com>",
        "@route.example:ann@example.org",
        "ann@-.example",
        "x" * 70 + "@example.org",
        "\udcff@example.org",
        "ann@" + "a" * 64 + ".example",
    ],
)
async def test_a_bad_address_is_refused_by_name(bad: str) -> None:
    """As reverse-path or recipient: a permanent reply that shows which address it was, and no control character."""
    as_sender = await Counter().refusal(reverse_path=bad)
    as_recipient = await Counter().refusal(recipients=("bob@example.net", bad))

    for reply in (as_sender, as_recipient):
        assert reply.startswith("5")
        assert "\r" not in reply
        assert "\n" not in reply
        assert f"Address: {''.join(c if c.isprintable() else '?' for c in bad)[:256]}" in reply


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"Subject: x\n\nbody\n", "550 5.6.11"),
        (b"Subject: x\r\n\r\nbare \r cr\r\n", "550 5.6.11"),
        (b"Subject: x\r\n\r\nends in \r", "550 5.6.11"),
        (b"Subject: x\r\n\r\n" + b"x" * 70_000 + b"\r\n", "552 5.3.4"),
        (b"Received: from a\r\n" * 50 + b"\r\nbody\r\n", "554 5.4.6"),
    ],
    ids=["bare LF", "bare CR", "CR at the end", "too large", "loop"],
)
async def test_content_that_the_wire_would_refuse_is_refused_here(content: bytes, code: str) -> None:
    """Line ends, size and loops are judged by the same rules as after DATA."""
    assert (await Counter().refusal(content)).startswith(code)


@pytest.mark.asyncio
async def test_a_submission_needs_recipients_and_not_too_many() -> None:
    """None at all, or more than the limit: refused as at the wire."""
    assert (await Counter().refusal(recipients=())).startswith("554 5.5.1")
    assert (await Counter().refusal(recipients=[f"u{n}@example.net" for n in range(101)])).startswith("452 4.5.3")


@pytest.mark.asyncio
async def test_postmaster_goes_where_the_operator_said() -> None:
    """A bare postmaster is an address here too, if somebody is behind it."""
    counter = Counter(postmaster="ops@example.org")

    await counter.door.submit(CONTENT, "ann@example.org", ("Postmaster",))

    assert "ops@example.org" == counter.messages[0].envelope.recipients[0].text
    assert "Address: postmaster" in await Counter().refusal(recipients=("postmaster",))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "reverse_path", "recipients", "body", "is_utf8"),
    [
        (CONTENT, "ann@example.org", TO, Body.SEVEN_BIT, False),
        ("Subject: ä\r\n\r\nä\r\n".encode(), "ann@example.org", TO, Body.EIGHT_BIT_MIME, False),
        (CONTENT, "änn@example.org", TO, Body.SEVEN_BIT, True),
        (CONTENT, "ann@example.org", ("böb@exämple.net",), Body.SEVEN_BIT, True),
    ],
)
async def test_what_the_envelope_needs_is_derived(
    content: bytes, reverse_path: str, recipients: tuple[str, ...], body: Body, is_utf8: bool
) -> None:
    """BODY and SMTPUTF8 are asked of hosts exactly where octets or addresses need them."""
    counter = Counter()

    await counter.door.submit(content, reverse_path, recipients)

    envelope = counter.messages[0].envelope
    assert (body, is_utf8) == (envelope.body, envelope.smtputf8)


@pytest.mark.asyncio
async def test_what_code_hands_in_is_signed_before_it_is_filed() -> None:
    """The programmatic door asks the signer as reception does, and says that TLS is optional where the content does."""
    counter = Counter()
    asked: list[Message] = []

    def sign(message: Message, signed: Callable[[Message], None]) -> None:
        asked.append(message)
        signed(replace(message, prefix=b"DKIM-Signature: x\r\n" + message.prefix))

    counter.door._sign = sign
    await counter.door.submit(b"TLS-Required: No\r\n" + CONTENT, "ann@example.org", TO)

    (message,) = counter.messages
    assert asked[0].signs == ("*",)
    assert message.prefix.startswith(b"DKIM-Signature: x\r\nReceived: ")
    assert SenderTls.OPTIONAL is message.envelope.tls
