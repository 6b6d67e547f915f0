# SPDX-License-Identifier: MIT
"""Signatures on their way through the real daemon: what came signed stays valid, what we sign dkimpy finds valid."""

import json
import smtplib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import dkim
import pytest
from tests.live.content import KINDS
from tests.live.rig import WAIT_S, Daemon, serving, smarthost
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

# dkimpy parses header fields strictly: only what has them
SIGNED = ["short", "multipart", "utf-8 body", "latin-1", "lines of dots", "many line ends", "spaces at ends"]
SIGNED += ["folded fields", "998-octet lines", "no body", "300 KiB"]


class Rig(NamedTuple):
    """A daemon that signs for example.org, the far side, the keys' TXT records by name, and a key for others to use."""

    daemon: Daemon
    sink: Sink
    records: dict[str, str]
    key: bytes

    def find_record(self, name: bytes, timeout: int = 5) -> bytes:
        """Answer as DNS would."""
        return self.records.get(name.decode().rstrip("."), "").encode()

    def arrived(self, content: bytes, recipient: str) -> bytes:
        """Send a message through the daemon; give what arrived."""
        with smtplib.SMTP("127.0.0.1", self.daemon.port, timeout=WAIT_S) as client:
            client.sendmail("alice@example.org", [recipient], content, ["BODY=8BITMIME"])
        return self.sink.wait_for_recipient(recipient).content


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("dkim")
    config = ""
    for selector, kind in (("rsa", "rsa"), ("ed", "ed25519"), ("theirs", "rsa")):
        made = smarthost("dkim", "keygen", "--type", kind, str(home / f"{selector}.pem"))
        assert made.returncode == 0, made.stderr
        domain = "example.org" if selector != "theirs" else "theirs.example"
        config += f'[[dkim]]\ndomains = ["{domain}"]\nselector = "{selector}"\nkey_file = "{home}/{selector}.pem"\n'
    (home / "keys.toml").write_text('hostname = "relay.example.org"\n' + config)
    shown = smarthost("dkim", "show", "--json", "--config", str(home / "keys.toml"))
    assert shown.returncode == 0, shown.stderr
    records = {line["name"]: line["value"] for line in map(json.loads, shown.stdout.splitlines())}
    ours = config[: config.index('[[dkim]]\ndomains = ["theirs')]
    with Sink() as sink, serving(home / "state", "--next-hop", f"127.0.0.1:{sink.port}", config=ours) as daemon:
        yield Rig(daemon, sink, records, (home / "theirs.pem").read_bytes())


def _local(kind: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in kind)


@pytest.mark.parametrize("canonical", [(b"simple", b"simple"), (b"relaxed", b"relaxed")])
@pytest.mark.parametrize("kind", SIGNED)
def test_what_came_signed_stays_valid(rig: Rig, kind: str, canonical: tuple[bytes, bytes]) -> None:
    """Even under simple/simple, where a changed white space shows: relaying adds a field on top and nothing else."""
    content = KINDS[kind].replace(b"alice@example.org", b"carol@theirs.example")
    signature = dkim.sign(content, b"theirs", b"theirs.example", rig.key, canonicalize=canonical)
    recipient = f"{_local(kind)}-{canonical[0].decode()}@theirs.example.net"

    arrived = rig.arrived(signature + content, recipient)

    assert arrived.endswith(signature + content)
    assert dkim.verify(arrived, dnsfunc=rig.find_record)


@pytest.mark.parametrize("kind", SIGNED)
def test_what_we_sign_is_valid(rig: Rig, kind: str) -> None:
    """Both signatures, RSA and Ed25519, of every kind of message; a changed body would show."""
    arrived = rig.arrived(KINDS[kind], f"{_local(kind)}@ours.example.net")

    verify = _verifier(arrived, rig)
    assert [verify(0), verify(1)] == [True, True]
    assert arrived.count(b"DKIM-Signature: ") == 2
    assert {b" s=rsa;" in arrived, b" s=ed;" in arrived} == {True}
    changed = _verifier(arrived + b"more\r\n", rig)
    assert [changed(0), changed(1)] == [False, False]


def _verifier(content: bytes, rig: Rig) -> Callable[[int], bool]:
    def verify(index: int) -> bool:
        try:
            return bool(dkim.DKIM(content).verify(idx=index, dnsfunc=rig.find_record))
        except dkim.ValidationError:  # it says so of a body that was changed
            return False

    return verify


def test_a_message_of_somebody_else_is_not_signed(rig: Rig) -> None:
    """We have no key for its domain."""
    content = KINDS["short"].replace(b"alice@example.org", b"carol@elsewhere.example")

    assert b"DKIM-Signature" not in rig.arrived(content, "unsigned@ours.example.net")
