# SPDX-License-Identifier: MIT
"""The configuration, its certificates, and who may read its secrets."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from msgspec.structs import replace
from tests.ops.doctor.rig import HOSTNAME, Rig, levels, look, told

from smarthost.testing.clock import START

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


def certificate(directory: Path, days: float, *names: str, begun: float = 365) -> tuple[Path, Path]:
    """Write a certificate that is good for so many more days, and its key."""
    now = datetime.fromtimestamp(START, UTC)
    made = AUTHORITY.issue_cert(
        *(names or (HOSTNAME,)), not_before=now - timedelta(days=begun), not_after=now + timedelta(days=days)
    )
    file, key = directory / "certificate.pem", directory / "key.pem"
    made.cert_chain_pems[0].write_to_path(file)
    made.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return file, key


def rig(directory: Path, text: str) -> Rig:
    file = directory / "smarthost.toml"
    file.write_text(text)
    file.chmod(0o600)
    made = Rig(text)
    made.change(config=replace(made.world.config, file=str(file)))
    return made


def tls(directory: Path, days: float, *names: str, begun: float = 365) -> Rig:
    file, key = certificate(directory, days, *names, begun=begun)
    return rig(directory, f'[tls]\ncertificate_file = "{file}"\nkey_file = "{key}"\n')


def test_no_file_at_all_is_ok() -> None:
    """The defaults hold."""
    assert told(look(Rig(), "config")) == ["ok no file, the defaults: no errors, and its files can be used"]


def test_errors_of_the_file_fail_each_in_its_line() -> None:
    """As `config check` tells them."""
    made = Rig()
    made.change(errors=("smarthost.toml: line 3: retry.first: expected", "smarthost.toml: nonsense: no such key"))

    assert levels(look(made, "config")) == ["fail", "fail"]


@pytest.mark.parametrize(("days", "level"), [(22, "ok"), (20.5, "warn"), (0.5, "warn"), (-1, "fail")])
def test_a_certificate_is_judged_by_what_is_left_of_it(tmp_path: Path, days: float, level: str) -> None:
    """Three weeks before the end is the time to look."""
    found = look(tls(tmp_path, days), "config")

    assert levels(found) == ["ok", level, "ok"]
    assert "certificate.pem" in found[1].seen


def test_a_certificate_for_another_name_is_a_warning(tmp_path: Path) -> None:
    """Clients that verify refuse it; a wildcard is fine."""
    assert levels(look(tls(tmp_path, 90, "other.example.org"), "config")) == ["ok", "ok", "warn", "ok"]
    assert levels(look(tls(tmp_path, 90, "*.example.org"), "config")) == ["ok", "ok", "ok"]


def test_a_certificate_of_the_future_fails(tmp_path: Path) -> None:
    """A clock that is behind, or a slip of who issued it."""
    assert levels(look(tls(tmp_path, 90, begun=-2), "config")) == ["ok", "fail", "ok", "ok"]


def test_a_key_that_does_not_fit_fails(tmp_path: Path) -> None:
    """A start would refuse it."""
    made = tls(tmp_path, 90)
    AUTHORITY.issue_cert("x.example").private_key_pem.write_to_path(tmp_path / "key.pem")

    found = look(made, "config")

    assert "fail" == levels(found)[0]
    assert "key.pem" in found[0].seen


def test_a_key_that_does_not_fit_the_certificate_of_http_fails(tmp_path: Path) -> None:
    """The operators' page would not open."""
    file, key = certificate(tmp_path, 90)
    text = f'[http]\nlisten = ["127.0.0.1:8025"]\ncertificate_file = "{file}"\nkey_file = "{key}"\n'
    assert levels(look(rig(tmp_path, text), "config")) == ["ok", "ok", "ok"]
    AUTHORITY.issue_cert("x.example").private_key_pem.write_to_path(key)

    assert "fail" == levels(look(rig(tmp_path, text), "config"))[0]


def test_a_missing_file_fails_once_and_breaks_nothing(tmp_path: Path) -> None:
    """What can still be looked at is."""
    made = tls(tmp_path, 90)
    (tmp_path / "key.pem").unlink()

    found = look(made, "config")

    assert "fail" in levels(found)
    assert not any("broke" in each.seen for each in found)


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o640, "ok"), (0o660, "warn"), (0o644, "fail")])
def test_a_key_that_others_may_read_fails(tmp_path: Path, mode: int, level: str) -> None:
    """A group may read it (a service's own), everybody may not."""
    made = tls(tmp_path, 90)
    (tmp_path / "key.pem").chmod(mode)

    assert levels(look(made, "config"))[2] == level


def test_a_configuration_with_a_password_is_a_secret_itself(tmp_path: Path) -> None:
    """And its line shows no password."""
    text = '[[next_hop]]\nhost = "smtp.example.net"\nusername = "a"\npassword = "s3cret"\ntls = "verified"\n'
    made = rig(tmp_path, text)
    (tmp_path / "smarthost.toml").chmod(0o644)

    found = look(made, "config")

    assert levels(found) == ["ok", "fail"]
    assert found[1].cure == f"chmod 600 {tmp_path / 'smarthost.toml'}"
    assert "s3cret" not in found[1].seen


def test_a_password_file_and_a_certificate_are_told_apart(tmp_path: Path) -> None:
    """A certificate is for everybody to read."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    secret.chmod(0o604)
    made = rig(
        tmp_path,
        f'[[next_hop]]\nhost = "smtp.example.net"\nusername = "a"\npassword_file = "{secret}"\ntls = "verified"\n',
    )

    assert told(look(made, "config"))[1].startswith(
        f"fail {secret} (password_file): everybody on this machine may read"
    )
