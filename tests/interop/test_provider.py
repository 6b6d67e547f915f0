# SPDX-License-Identifier: MIT
"""Sending through a provider: verified TLS and a password, or no mail leaves; then it is kept, and the log says why.

The provider is aiosmtpd with certificates of a private authority (trustme).
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.interop.aiosmtpd_host import AiosmtpdHost
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

USER = "me@example.org"
PASSWORD = "corréct-hörse\\battery'staple"
NAMES = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _context(authority: trustme.CA, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=not_after).configure_cert(context)
    return context


@contextmanager
def _sending_through(
    home: Path,
    port: int,
    authority: trustme.CA,
    further: str = "",
    *,
    password: str = PASSWORD,
    host: str = "localhost",
) -> Iterator[Daemon]:
    """Run a daemon that sends everything through a provider on this port."""
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    (home / "password").write_text(f"{password}\n")
    config = f"""
        [next_hop]
        host = "{host}"
        port = {port}
        ca_file = "{home}/ca.pem"
        {further or f'username = "{USER}"'}
        {"" if further else f'password_file = "{home}/password"'}
    """
    with serving(home / "state", config=config) as daemon:
        yield daemon
    assert password not in daemon.everything_said()


def _send(daemon: Daemon, kind: str = "short") -> None:
    with RawClient(daemon.port) as client:
        client.send(KINDS[kind], "bob@example.net", parameters=" BODY=8BITMIME")


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("host", NAMES)
def test_mail_goes_out_verified_and_logged_in(
    tmp_path: Path, authority: trustme.CA, host: str, *, implicit: bool
) -> None:
    """With a right password and a valid certificate mail is relayed over TLS, port 587 or 465, octet for octet."""
    context = _context(authority, *NAMES)
    line = f'username = "{USER}"\npassword = """{PASSWORD}"""'.replace("\\", "\\\\")
    further = f"{line}\nimplicit_tls = {str(implicit).lower()}"

    with (
        AiosmtpdHost(tls=context, implicit_tls=implicit, login=(USER, PASSWORD)) as provider,
        _sending_through(tmp_path, provider.port, authority, further, host=host) as daemon,
    ):
        _send(daemon, "multipart")
        arrived = provider.wait_for_recipient("bob@example.net")
        relayed = daemon.line("relayed", recipient="bob@example.net")

    assert_same(KINDS["multipart"], without_our_field(arrived.content), "through TLS")
    assert arrived.was_in_tls
    assert arrived.login == USER
    assert relayed["tls"].startswith("TLSv1.3")
    assert "verified" in relayed["tls"]


def test_300_kibibytes_through_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """Content from a file, in pieces, passes TLS unchanged."""
    with (
        AiosmtpdHost(tls=_context(authority, *NAMES), login=(USER, PASSWORD)) as provider,
        _sending_through(tmp_path, provider.port, authority) as daemon,
    ):
        _send(daemon, "300 KiB")
        arrived = provider.wait_for_recipient("bob@example.net")

    assert_same(KINDS["300 KiB"], without_our_field(arrived.content), "300 KiB")


def _expect_kept(daemon: Daemon, *words: str) -> None:
    """The message waits in the queue, the log has an alarm, and both say why."""
    _send(daemon)
    alarm = daemon.line("host refuses our sessions", level="error")
    deferred = daemon.line("deferred", recipient="bob@example.net")
    (message,) = daemon.queue()
    (recipient,) = message["recipients"]
    assert recipient["state"] in ("deferred", "leased")
    for word in words:
        assert word in alarm["why"]
        assert word in deferred["why"]
    assert [line for line in daemon.lines if line["what"] == "bounced"] == []


def test_a_wrong_password_keeps_the_mail(tmp_path: Path, authority: trustme.CA) -> None:
    """A rotated password bounces nothing: the mail waits, and the operator reads what the provider said."""
    with (
        AiosmtpdHost(tls=_context(authority, *NAMES), login=(USER, "another")) as provider,
        _sending_through(tmp_path, provider.port, authority) as daemon,
    ):
        _expect_kept(daemon, "535", "auth")
        assert provider.arrived == []


def test_mail_kept_for_a_wrong_password_leaves_when_it_is_right(tmp_path: Path, authority: trustme.CA) -> None:
    """After the password file is corrected and the daemon restarted, what waited goes out."""
    with AiosmtpdHost(tls=_context(authority, *NAMES), login=(USER, PASSWORD)) as provider:
        with _sending_through(tmp_path, provider.port, authority, password="old-secret") as daemon:
            _expect_kept(daemon, "535")
        with _sending_through(tmp_path, provider.port, authority):
            arrived = provider.wait_for_recipient("bob@example.net")

    assert_same(KINDS["short"], without_our_field(arrived.content), "kept")


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("flaw", ["of a stranger", "for another name", "expired"])
def test_a_certificate_that_is_not_valid_keeps_the_mail(
    tmp_path: Path, authority: trustme.CA, flaw: str, *, implicit: bool
) -> None:
    """No password and no mail goes to a host that cannot prove who it is."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    context, words = {
        "of a stranger": (_context(trustme.CA(), *NAMES), "unable to get local issuer certificate"),
        "for another name": (_context(authority, "mail.elsewhere.example"), "Hostname mismatch"),
        "expired": (_context(authority, *NAMES, not_after=yesterday), "certificate has expired"),
    }[flaw]
    further = f'tls = "verified"\nimplicit_tls = {str(implicit).lower()}'

    with (
        AiosmtpdHost(tls=context, implicit_tls=implicit) as provider,
        _sending_through(tmp_path, provider.port, authority, further) as daemon,
    ):
        _expect_kept(daemon, "certificate not valid", words)
        assert provider.arrived == []


@pytest.mark.parametrize("level", ["required", "verified"])
def test_no_starttls_keeps_the_mail(tmp_path: Path, authority: trustme.CA, level: str) -> None:
    """A stripped STARTTLS does not make us send in clear."""
    with Sink() as provider, _sending_through(tmp_path, provider.port, authority, f'tls = "{level}"') as daemon:
        _expect_kept(daemon, "does not offer STARTTLS")
        assert provider.arrived == []


def test_no_auth_keeps_the_mail(tmp_path: Path, authority: trustme.CA) -> None:
    """A provider that does not offer a login that we can use gets no mail, and the operator is told."""
    with (
        AiosmtpdHost(tls=_context(authority, *NAMES), auth_exclude=["PLAIN", "LOGIN"]) as provider,
        _sending_through(tmp_path, provider.port, authority) as daemon,
    ):
        _expect_kept(daemon, "neither AUTH PLAIN nor AUTH LOGIN")
        assert provider.arrived == []


def test_a_refused_starttls_keeps_the_mail(tmp_path: Path, authority: trustme.CA) -> None:
    """454 to STARTTLS is no reason to go on in clear, where TLS is demanded."""
    answers = {b"STARTTLS": lambda argument: b"454 4.7.0 TLS not available"}
    extensions = (b"STARTTLS", b"8BITMIME")

    with (
        Sink(answers=answers, extensions=extensions) as provider,
        _sending_through(tmp_path, provider.port, authority, 'tls = "required"') as daemon,
    ):
        _send(daemon)
        deferred = daemon.line("deferred", recipient="bob@example.net")
        assert len(daemon.queue()) == 1
        assert provider.arrived == []

    assert "454 4.7.0 TLS not available" in deferred["why"]


@pytest.mark.parametrize("implicit", [False, True])
def test_a_ca_file_that_is_not_there_keeps_the_mail(tmp_path: Path, authority: trustme.CA, *, implicit: bool) -> None:
    """Deleting the CA file under a running daemon loses nothing, and nothing goes out unverified."""
    further = f'tls = "verified"\nimplicit_tls = {str(implicit).lower()}'

    with (
        AiosmtpdHost(tls=_context(authority, *NAMES), implicit_tls=implicit) as provider,
        _sending_through(tmp_path, provider.port, authority, further) as daemon,
    ):
        (tmp_path / "ca.pem").unlink()
        _expect_kept(daemon, "CA certificates cannot be loaded")
        assert provider.arrived == []


def test_opportunistic_tls_is_used_and_not_verified(tmp_path: Path) -> None:
    """Where nothing is demanded, STARTTLS is used when it is offered, whoever signed the certificate."""
    with (
        AiosmtpdHost(tls=_context(trustme.CA(), "whoever.example")) as provider,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{provider.port}") as daemon,
    ):
        _send(daemon)
        arrived = provider.wait_for_recipient("bob@example.net")

    assert arrived.was_in_tls


def test_a_backlog_behind_a_wrong_password_is_not_tried_message_by_message(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """While a login fails, the destination sleeps as a whole: each message says why, none is rewritten for it."""
    with (
        AiosmtpdHost(tls=_context(authority, *NAMES), login=(USER, "another")) as provider,
        _sending_through(tmp_path, provider.port, authority, host="127.0.0.1") as daemon,
    ):
        with RawClient(daemon.port) as client:
            for n in range(200):
                client.send(KINDS["short"], f"r{n}@example.net")
        daemon.line("host refuses our sessions")
        daemon.wait_until(
            lambda: all("535" in message["recipients"][0]["why"] for message in daemon.queue()), "all say why"
        )
        touched = [line for line in daemon.lines if line["what"] in ("deferred", "postponed")]

    assert len(touched) < 100  # the 20 sessions of the lane, and a few that were leased when the first failed
