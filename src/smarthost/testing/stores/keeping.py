# SPDX-License-Identifier: MIT
"""Scenarios: what was acknowledged is there, unchanged, whatever happens afterwards."""

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import Content
from smarthost.mail.envelope import Body, Envelope
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.identity import decode_id
from smarthost.mail.message import Message
from smarthost.mail.settlement import State
from smarthost.testing.stores.trial import HOUR, NOW, Trial, content_of, numbers, refused

LARGE_OCTETS = 3 * 1024 * 1024


async def acknowledged_message_survives_a_crash(trial: Trial) -> None:
    """Everything about a message is as it was handed in."""
    recipients = (
        Address("One@Dest.Example", Domain("dest.example")),
        Address("two@other.example", Domain("other.example")),
    )
    plain = trial.message("x@y.example")
    envelope = Envelope("Sender+tag@origin.example", recipients, Body.EIGHT_BIT_MIME, smtputf8=True)
    message = Message(plain.id, NOW + 0.123457, envelope, b"P: 1\r\n", plain.content, "2001:db8::1", "user@example")
    await trial.store.add(message, ())

    await trial.crash()
    (lease,) = await trial.store.lease(["dest.example", "other.example"], NOW + HOUR, 10)

    assert lease.id == message.id
    assert lease.received_at == message.received_at
    assert lease.reverse_path == "Sender+tag@origin.example"
    assert (lease.body, lease.smtputf8) == (Body.EIGHT_BIT_MIME, True)
    assert (lease.client, lease.sender, lease.prefix) == ("2001:db8::1", "user@example", b"P: 1\r\n")
    assert lease.octets == plain.content.octets
    assert [(each.address, each.domain) for each in lease.recipients] == [
        (each.text, each.domain) for each in recipients
    ]


async def content_comes_back_octet_for_octet(trial: Trial) -> None:
    """Content is not changed: empty, all octet values, larger than a page, larger than memory should hold."""
    contents = [b"", bytes(range(256)) * 20, b"\x00", b"x" * 40_000, bytes(range(255, -1, -1)) * 2_000]
    messages = [trial.message("a@dest.example", content=content) for content in contents]
    messages.append(trial.message("a@dest.example", content=b"", prefix=b""))
    contents.append(b"")
    for message in messages:
        await trial.store.add(message, ())

    for _ in range(2):
        for message, content in zip(messages, contents, strict=True):
            found = await trial.store.content(message.id)
            assert found.octets == len(content)
            assert content_of(found) == content
        await trial.crash()


async def large_draft_becomes_content(trial: Trial) -> None:
    """Content written in pieces comes back whole, also after a crash, and its lease says to read it back."""
    piece = bytes(range(256)) * 256
    draft = trial.store.draft()
    for _ in range(LARGE_OCTETS // len(piece)):
        draft.write(piece)
    message = trial.message("a@dest.example", content=draft.finish())
    (lease,) = await trial.store.add(message, ["dest.example"])

    assert lease.octets == LARGE_OCTETS
    assert content_of(lease.content or await trial.store.content(message.id)) == piece * (LARGE_OCTETS // len(piece))
    await trial.crash()
    found = await trial.store.content(message.id)
    assert content_of(found) == piece * (LARGE_OCTETS // len(piece))
    leases = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle(trial.relayed(leases))
    await refused(trial.store.content(message.id), StoreError)


async def large_content_in_memory_is_added(trial: Trial) -> None:
    """Content need not come as a draft, however large it is."""
    content = bytes(range(256)) * 2048
    message = trial.message("a@dest.example", content=content)
    await trial.store.add(message, ())

    await trial.crash()

    assert content_of(await trial.store.content(message.id)) == content


async def small_draft_becomes_content(trial: Trial) -> None:
    """A draft may stay small, or empty."""
    contents: list[Content] = []
    for pieces in ([b"Subject: x\r\n", b"\r\nx\r\n"], []):
        draft = trial.store.draft()
        for piece in pieces:
            draft.write(piece)
        contents.append(draft.finish())
    messages = [trial.message("a@dest.example", content=content) for content in contents]
    for message in messages:
        await trial.store.add(message, ())

    await trial.crash()

    found = [content_of(await trial.store.content(message.id)) for message in messages]
    assert found == [b"Subject: x\r\n\r\nx\r\n", b""]


async def discarded_draft_is_harmless(trial: Trial) -> None:
    """A draft may be discarded at any time, and again."""
    for size in (10, 300_000):
        draft = trial.store.draft()
        draft.discard()
        draft = trial.store.draft()
        draft.write(b"x" * size)
        draft.discard()
        draft.discard()
        finished = trial.store.draft()
        finished.write(b"x" * size)
        finished.finish()
        finished.discard()

    assert await trial.store.count() == (0, 0)


async def addresses_keep_their_characters(trial: Trial) -> None:
    """Local parts come back as received, in any script."""
    texts = [
        "δοκιμή@παράδειγμα.example",
        "用户@例子.example",
        'o"brien\\@dest.example',
        "%x!y=z@dest.example",
        "😀@dest.example",
    ]
    message = await trial.add(*texts)

    await trial.crash()
    leases = await trial.store.lease({address.domain for address in message.envelope.recipients}, NOW, 10)

    assert [each.address for lease in leases for each in lease.recipients] == texts


async def five_hundred_recipients_over_fifty_domains(trial: Trial) -> None:
    """A list's message is filed whole and leased in parts."""
    texts = [f"user{n}@d{n % 50}.example" for n in range(500)]
    message = await trial.add(*texts)

    assert await trial.store.count() == (1, 500)
    scan = await trial.store.due(NOW, 100)
    assert len(scan.domains) == 50
    leases = await trial.store.lease([due.domain for due in scan.domains], NOW, 100)
    assert sorted(numbers(leases)) == [(message.id, n) for n in range(500)]
    assert max(len(lease.recipients) for lease in leases) <= 100
    await trial.store.settle(trial.relayed(leases))
    assert await trial.store.count() == (0, 0)


async def repeated_add_adds_nothing(trial: Trial) -> None:
    """After an error nobody knows whether a message was filed: filing it again is harmless."""
    message = trial.message("a@dest.example", "b@dest.example")
    await trial.store.add(message, ())
    (lease,) = await trial.store.lease(["dest.example"], NOW, 10)
    await trial.store.settle([trial.settlement(lease, State.RELAYED, only={0})])

    await trial.store.add(message, ())

    assert await trial.store.count() == (1, 1)
    assert await trial.states() == {"b@dest.example": "leased"}


async def last_number_is_never_forgotten(trial: Trial) -> None:
    """Numbers of messages and records that are long gone are not given out again."""
    message, leases = await trial.add_leased("a@dest.example")
    (settlement,) = trial.relayed(leases)
    await trial.store.settle([settlement])

    for _ in range(2):
        highest = max(decode_id(message.id)[0], settlement.records[0].seq)
        assert trial.store.last_number >= highest
        await trial.crash()


async def close_commits_what_was_enqueued(trial: Trial) -> None:
    """Who closes the store loses nothing that was handed to it, awaited or not."""
    adding = trial.store.add(trial.message("a@dest.example", "b@dest.example"), ["dest.example"])
    (lease,) = await adding
    settling = trial.store.settle([trial.settlement(lease, State.RELAYED, only={0})])
    late = trial.store.add(trial.message("c@dest.example"), ())

    await trial.restart()

    await settling
    await late
    assert await trial.states() == {"b@dest.example": "deferred", "c@dest.example": "deferred"}


async def closed_store_refuses(trial: Trial) -> None:
    """After close there are clear errors, and closing again is harmless."""
    await trial.store.close()
    await trial.store.close()

    assert isinstance(trial.store.refusal, StoreError)
    await refused(trial.store.add(trial.message("a@dest.example"), ()), StoreError)
    await refused(trial.store.due(NOW, 1), StoreError)
    await refused(trial.store.awaiting(NOW, 1), StoreError)
    await refused(trial.store.release(["dest.example"], NOW), StoreError)
    await refused(trial.store.load_notes("x"), StoreError)
    await refused(trial.store.save_notes({"x": b"x"}), StoreError)


async def full_store_refuses_mail_but_settles(trial: Trial) -> None:
    """When space is short, new mail is told so, and what is there can still be relayed."""
    assert trial.store.refusal is None
    _, leases = await trial.add_leased("a@dest.example")
    trial.set_full(True)

    assert isinstance(trial.store.refusal, StoreFull)
    await refused(trial.store.add(trial.message("b@dest.example"), ["dest.example"]), StoreFull)
    try:
        trial.store.draft()
    except StoreFull:
        pass
    else:
        raise AssertionError("a draft was begun without room")
    await trial.store.settle(trial.relayed(leases))

    trial.set_full(False)
    assert trial.store.refusal is None
    await trial.add("c@dest.example")
    assert await trial.states() == {"c@dest.example": "deferred"}


async def content_of_nobody_is_an_error(trial: Trial) -> None:
    """Content of a message that is not there, or of what is no id, is a StoreError."""
    await refused(trial.store.content(trial.message("a@dest.example").id), StoreError)
    await refused(trial.store.content("not an id"), StoreError)


SCENARIOS = (
    acknowledged_message_survives_a_crash,
    content_comes_back_octet_for_octet,
    large_draft_becomes_content,
    large_content_in_memory_is_added,
    small_draft_becomes_content,
    discarded_draft_is_harmless,
    addresses_keep_their_characters,
    five_hundred_recipients_over_fifty_domains,
    repeated_add_adds_nothing,
    last_number_is_never_forgotten,
    close_commits_what_was_enqueued,
    closed_store_refuses,
    full_store_refuses_mail_but_settles,
    content_of_nobody_is_an_error,
)
