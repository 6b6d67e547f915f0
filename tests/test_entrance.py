# SPDX-License-Identifier: MIT
"""The doors of a relay, as an operator's configuration makes them."""

import asyncio
import os
import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import dkim
import pytest
import trustme
from click.testing import CliRunner
from tests.live.sink import Sink

from smarthost.assemble import Relay
from smarthost.backends.keyring import load_key
from smarthost.backends.users import hash_password
from smarthost.ops import exits
from smarthost.ops.cli import cli
from smarthost.ops.dkim import record

T = TypeVar("T")
MAIL = b"From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nHello.\r\n"
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("mail.example.org", "localhost")


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    AUTHORITY.configure_trust(made)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give a directory with a certificate, a user and a DKIM key."""
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    password = hash_password("secret")
    (tmp_path / "users.toml").write_text(f'[ann]\npassword = "{password}"\nsenders = ["ann@example.org"]\n')
    os.chmod(tmp_path / "users.toml", 0o600)  # noqa: PTH101
    CliRunner().invoke(cli, ["dkim", "keygen", str(tmp_path / "s1.pem")])
    return tmp_path


def settings(files: Path, more: str = "") -> str:
    return f"""
        hostname = "mail.example.org"
        [tls]
        certificate_file = "{files}/cert.pem"
        [auth]
        users_file = "{files}/users.toml"
        [[listener]]
        listen = ["127.0.0.1:0"]
        mode = "submission"
        [[listener]]
        listen = ["127.0.0.1:0"]
        mode = "submissions"
        [[listener]]
        listen = ["127.0.0.1:0"]
        mode = "lmtp"
        {more}
    """


async def aside(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_user_submits_and_the_mail_leaves_signed(files: Path) -> None:
    """STARTTLS, AUTH, a Date and a Message-ID that were missing, and a signature others verify."""
    key = f'[[dkim]]\ndomains = ["example.org"]\nselector = "s1"\nkey_file = "{files}/s1.pem"\n'
    with Sink() as sink:
        hop = f"127.0.0.1:{sink.port}"
        async with Relay(state_dir=files / "state", next_hop=hop, settings=settings(files, key)) as relay:
            (_, submission), (_, submissions), _ = relay.bound

            def submit() -> None:
                with smtplib.SMTP("localhost", submission, timeout=10) as client:
                    client.starttls(context=context())
                    client.login("ann", "secret")
                    client.sendmail("ann@example.org", ["bob@example.net"], MAIL)
                with smtplib.SMTP_SSL("localhost", submissions, timeout=10, context=context()) as client:
                    client.login("ann", "secret")
                    with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                        client.sendmail("eve@example.org", ["bob@example.net"], MAIL)
                    assert refused.value.smtp_code in (550, 553)

            await aside(submit)
            (message,) = await aside(lambda: sink.wait_for(1))

    octets = message.content
    assert b"\r\nDate: " in octets
    assert b"\r\nMessage-ID: <" in octets
    assert dkim.verify(octets, dnsfunc=lambda name, timeout=0: record(load_key(files / "s1.pem")).encode())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: (files / "users.toml").write_text('[ann]\npassword = "plain"\n'), "users.toml"),
        (lambda files: (files / "cert.pem").write_text("rubbish"), "cert.pem"),
        (lambda files: (files / "s1.pem").write_text("rubbish"), "s1.pem"),
    ],
)
def test_config_check_looks_into_the_files(files: Path, spoil: Callable[[Path], object], said: str) -> None:
    """What a start would refuse is found before it: the error names the file."""
    config = files / "smarthost.toml"
    key = f'[[dkim]]\ndomains = ["example.org"]\nselector = "s1"\nkey_file = "{files}/s1.pem"\n'
    config.write_text(settings(files, key).replace(":0", ":2599", 1))
    good = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])
    assert good.exit_code == exits.OK, good.output

    spoil(files)
    checked = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert checked.exit_code == exits.CONFIG
    assert said in checked.output


@pytest.mark.slow
@pytest.mark.asyncio
async def test_an_expired_certificate_is_told_at_the_start(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The relay starts all the same: most hosts do not verify, and an operator reads why others stay away."""
    expired = AUTHORITY.issue_cert("mail.example.org", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    expired.private_key_and_cert_chain_pem.write_to_path(str(files / "cert.pem"))

    async with Relay(state_dir=files / "state", next_hop="127.0.0.1:9", settings=settings(files)) as relay:
        assert len(relay.bound) == 3

    (told,) = [each.getMessage() for each in caplog.records if "certificate expired" in each.getMessage()]
    assert str(files / "cert.pem") in told
    assert "2020-01-01T00:00:00+00:00" in told
