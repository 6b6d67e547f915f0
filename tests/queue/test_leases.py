# SPDX-License-Identifier: MIT
"""The leased set: who has what, what was wished for it, and what an outdated row must not lead to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body, DsnRequest, Envelope, Notify, SenderTls
from smarthost.mail.identity import encode_id
from smarthost.mail.message import Message
from smarthost.queue.leases import Leases, Wish, fresh_leases

A, B = encode_id(1, 5), encode_id(2, 5)


def test_leased_recipients_are_known_by_message_and_by_domain() -> None:
    """A store asks for leases by domain, and ends them by message."""
    leases = Leases()
    leases.take(A, 1, 0, "one.example")
    leases.take(A, 1, 1, "two.example")
    leases.take(B, 2, 0, "one.example")

    assert leases.of_domains(["one.example", "none.example"]) == [(1, 0), (2, 0)]
    assert sorted(leases.all()) == [(1, 0, "one.example"), (1, 1, "two.example"), (2, 0, "one.example")]
    assert (leases.is_leased(A, 1), leases.is_leased(A, 2), leases.is_message_leased(B)) == (True, False, True)


def test_row_read_before_a_lease_ended_is_not_free() -> None:
    """A row that is older than the settlement that ended its lease must not be delivered again; a newer one may."""
    leases = Leases()
    leases.take(A, 1, 0, "one.example")
    with leases.reading() as early:
        assert not leases.is_free(A, 0, early)
        leases.end(A, 0)
        with leases.reading() as late:
            assert not leases.is_free(A, 0, early)
            assert leases.is_free(A, 0, late)
            leases.take(A, 1, 0, "one.example")
            assert not leases.is_free(A, 0, late)


def test_wish_is_taken_once() -> None:
    """A wish is applied by the settlement or by the end of the lease, never by both."""
    leases = Leases()
    leases.take(A, 1, 0, "one.example")
    leases.wish(A, 0, Wish("cancel", 1.0))

    assert leases.has_wishes
    assert leases.open_wish(A, 0) == Wish("cancel", 1.0)
    assert leases.open_wish(A, 0) is None
    assert leases.end(A, 0) is None


@pytest.mark.parametrize("end", ["cancel", "bounce", "expire"])
@pytest.mark.parametrize("other", ["retry", "hold", "release", "reroute"])
def test_nothing_takes_back_an_end(end: str, other: str) -> None:
    """Of a verb that ends it and another upon the same attempt, the end counts, in either order."""
    for first, second in ((end, other), (other, end)):
        leases = Leases()
        leases.take(A, 1, 0, "one.example")
        leases.wish(A, 0, Wish(first, 1.0))
        leases.wish(A, 0, Wish(second, 2.0))
        wish = leases.end(A, 0)
        assert wish is not None
        assert wish.verb == end


def test_fresh_leases_carry_what_was_asked_for() -> None:
    """However a message is cut into leases, each recipient has its own request, and the envelope is in each lease."""
    names = [f"user{n}" for n in range(250)]
    recipients = tuple(
        [Address(f"{name}@d{n % 2}.example", Domain(f"d{n % 2}.example")) for n, name in enumerate(names)]
    )
    requests = tuple([DsnRequest(Notify.DELAY, name) for name in names])
    envelope = Envelope(
        "a@b.example", recipients, Body.BINARY_MIME, ret="FULL", envid="x", tls=SenderTls.OPTIONAL, requests=requests
    )
    message = Message(A, 1.0, envelope, b"", InlineContent(b""), "", "")

    both = fresh_leases(message, ["d0.example", "d1.example"], None)
    (odd, more) = fresh_leases(message, ["d1.example"], None)

    assert [each.orcpt for lease in both for each in lease.recipients] == names
    assert [each.orcpt for lease in (odd, more) for each in lease.recipients] == names[1::2]
    assert {each.notify for lease in both for each in lease.recipients} == {Notify.DELAY}
    assert {(lease.body, lease.ret, lease.envid, lease.tls) for lease in both} == {
        (Body.BINARY_MIME, "FULL", "x", SenderTls.OPTIONAL)
    }


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 3))))
def test_views_agree_whatever_happens(steps: list[tuple[bool, int, int]]) -> None:
    """By message, by domain and one by one, the same recipients are leased, and nothing is left behind."""
    leases = Leases()
    expected: set[tuple[int, int, str]] = set()
    for is_take, key, n in steps:
        domain = f"d{n % 2}"
        if is_take and (key, n, domain) not in expected:
            leases.take(encode_id(key, 5), key, n, domain)
            expected.add((key, n, domain))
        elif not is_take:
            leases.end(encode_id(key, 5), n)
            expected.discard((key, n, domain))

    assert set(leases.all()) == expected
    assert len(leases.all()) == len(expected)
    for key in range(1, 5):
        id = encode_id(key, 5)
        assert [leases.is_leased(id, n) for n in range(4)] == [(key, n, f"d{n % 2}") in expected for n in range(4)]
        assert leases.is_message_leased(id) == any(each[0] == key for each in expected)
        assert leases.key(id) == key
