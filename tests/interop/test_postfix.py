# SPDX-License-Identifier: MIT
"""Postfix before us and behind us. What it does to a message by itself is found by sending the same without us."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.interop.programs import postfix
from tests.live.content import KINDS, assert_same, large, split_field, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import Daemon, eventually, serving
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

TOO_MANY_HOPS = {"49 hops"}  # with Postfix's own and ours, beyond its hopcount_limit of 50
# Postfix puts an empty line where it misses one; our Received: field on top does not change where.
CHANGED_BY_POSTFIX = {"neither", "nothing but a dot", "odd header"}


class Chain(NamedTuple):
    """Postfix sends mail for direct.example to the sink, for before.example to `before`; `behind` sends to Postfix."""

    sink: Sink
    postfix_port: int
    before: Daemon
    behind: Daemon


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("postfix")
    with Sink() as sink, serving(home / "before", "--next-hop", f"127.0.0.1:{sink.port}") as before:
        routes = {"direct.example": sink.port, "before.example": before.port}
        with (
            postfix(routes) as scratch,
            serving(home / "behind", "--next-hop", f"127.0.0.1:{scratch.port}") as behind,
        ):
            yield Chain(sink, scratch.port, before, behind)


def _without_postfix_field(content: bytes) -> bytes:
    field, rest = split_field(content)
    assert b"by postfix.example.org (Postfix)" in field
    return rest


def _send(port: int, content: bytes, recipient: str, parameters: str = "") -> None:
    with RawClient(port) as client:
        client.send(content, recipient, parameters=f" BODY=8BITMIME{parameters}")


def _through_all(chain: Chain, content: bytes, local: str, parameters: str = "") -> tuple[bytes, bytes, bytes]:
    """Send a message the three ways, give what arrived without the fields of the hops."""
    _send(chain.postfix_port, content, f"{local}.direct@direct.example", parameters)
    _send(chain.postfix_port, content, f"{local}.before@before.example", parameters)
    _send(chain.behind.port, content, f"{local}.behind@direct.example", parameters)
    direct = chain.sink.wait_for_recipient(f"{local}.direct@direct.example").content
    before = chain.sink.wait_for_recipient(f"{local}.before@before.example").content
    behind = chain.sink.wait_for_recipient(f"{local}.behind@direct.example").content
    return (
        _without_postfix_field(direct),
        _without_postfix_field(without_our_field(before)),
        without_our_field(_without_postfix_field(behind)),
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TOO_MANY_HOPS])
def test_before_and_behind_postfix_nothing_changes(chain: Chain, kind: str) -> None:
    """What Postfix hands to us, and what we hand to Postfix, arrives as what Postfix delivers without us."""
    content = KINDS[kind]
    local = "".join(each if each.isalnum() else "-" for each in kind)

    direct, before, behind = _through_all(chain, content, local)

    assert_same(direct, before, f"{kind}, Postfix as our client")
    assert_same(direct, behind, f"{kind}, Postfix as our next hop")
    assert (direct == content) == (kind not in CHANGED_BY_POSTFIX)


def test_20_mebibytes_through_postfix(chain: Chain) -> None:
    """Large mail passes before and behind Postfix unchanged."""
    content = large(20 * 1024 * 1024)

    direct, before, behind = _through_all(chain, content, "large")

    assert_same(content, direct, "Postfix alone")
    assert_same(content, before, "Postfix as our client")
    assert_same(content, behind, "Postfix as our next hop")


def test_addresses_beyond_ascii_through_postfix(chain: Chain) -> None:
    """SMTPUTF8 is kept from hop to hop: the envelope arrives in its own script."""
    content = KINDS["utf-8 header"]

    _, before, behind = _through_all(chain, content, "用户", " SMTPUTF8")

    assert_same(content, before, "Postfix as our client")
    assert_same(content, behind, "Postfix as our next hop")
    for way in ("用户.before@before.example", "用户.behind@direct.example"):
        assert b"SMTPUTF8" in chain.sink.wait_for_recipient(way).mail


def test_a_hundred_messages_from_postfix_all_arrive(chain: Chain) -> None:
    """Postfix sends several at once over sessions that it keeps; each arrives once."""
    wanted = {f"many{n}@before.example" for n in range(100)}

    with RawClient(chain.postfix_port) as client:
        for recipient in sorted(wanted):
            client.send(KINDS["short"], recipient)
    for recipient in wanted:
        chain.sink.wait_for_recipient(recipient)


def test_what_postfix_refuses_bounces_in_its_words(chain: Chain) -> None:
    """A recipient that the next hop refuses comes back to the sender, with the reason the next hop gave."""
    with RawClient(chain.behind.port) as client:
        client.send(KINDS["short"], "bob@elsewhere.example", sender="sender@direct.example")

    report = chain.sink.wait_for_recipient("sender@direct.example")
    assert b"Action: failed" in report.content
    assert b"Relay access denied" in report.content
    assert report.mail.startswith(b"FROM:<>")
    bounced = chain.behind.line("bounced", recipient="bob@elsewhere.example")
    assert bounced["reply"].startswith("454") or bounced["reply"].startswith("554")


def test_postfix_keeps_its_mail_while_we_are_away(tmp_path: Path) -> None:
    """A client that finds nobody here keeps its mail and hands it over when we are back."""
    with Sink() as sink:
        arguments = (tmp_path / "state", "--next-hop", f"127.0.0.1:{sink.port}")
        with serving(*arguments) as daemon:
            port = daemon.port
        with postfix({"before.example": port}) as scratch:
            _send(scratch.port, KINDS["short"], "away@before.example")
            eventually(lambda: "status=deferred" in scratch.log(), "Postfix finds us away")
            with serving(*arguments, listen=[f"127.0.0.1:{port}"]):
                scratch.flush()
                arrived = sink.wait_for_recipient("away@before.example")

    assert _without_postfix_field(without_our_field(arrived.content)) == KINDS["short"]
