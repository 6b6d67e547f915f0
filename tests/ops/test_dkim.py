# SPDX-License-Identifier: MIT
"""`smarthost dkim keygen|show`."""

import base64
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from smarthost.backends.keyring import load_key
from smarthost.ops import exits
from smarthost.ops.cli import cli


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(cli, arguments)
    return ended.exit_code, ended.output


def told(line: str) -> str:
    """Give the TXT value of a zone line."""
    return "".join(re.findall(r'"([^"]*)"', line))


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_new_key_is_private_and_its_record_is_that_of_the_key(tmp_path: Path, kind: str) -> None:
    """What is printed can be put into DNS as it is."""
    path = tmp_path / "s2026.pem"

    code, output = run("dkim", "keygen", str(path), "--type", kind, "--domain", "example.org")

    assert code == exits.OK
    assert path.stat().st_mode & 0o777 == 0o600
    assert output.splitlines()[-1].startswith("s2026._domainkey.example.org. IN TXT (")
    value = told(output)
    assert value.startswith(f"v=DKIM1; k={kind}; p=")
    public = base64.b64decode(value.rpartition("p=")[2])
    key = load_key(path)
    if isinstance(key, RSAPrivateKey):
        assert load_der_public_key(public) == key.public_key()
        assert all(len(string) <= 255 for string in re.findall(r'"([^"]*)"', output))
    else:
        assert public == key.public_key().public_bytes_raw()


def test_a_record_says_what_in_it_was_not_asked_for(tmp_path: Path) -> None:
    """A domain that is only an example, and a selector taken from the file, are told in comments of a zone file."""
    kind = ("--type", "ed25519")

    _, guessed = run("dkim", "keygen", str(tmp_path / "s1.pem"), *kind)
    _, named = run("dkim", "keygen", str(tmp_path / "s2.pem"), *kind, "--domain", "a.example", "--selector", "mail")

    *comments, line = guessed.splitlines()
    assert comments == [
        "; put your domain in place of example.org, or say --domain",
        "; the selector s1 is from the name of the file; --selector gives another",
    ]
    assert line.startswith("s1._domainkey.example.org. ")
    assert [line.split()[0] for line in named.splitlines()] == ["mail._domainkey.a.example."]


def test_a_key_in_use_is_not_overwritten(tmp_path: Path) -> None:
    """Mail on its way is signed with it."""
    path = tmp_path / "k.pem"
    run("dkim", "keygen", str(path), "--type", "ed25519")
    before = path.read_bytes()

    code, output = run("dkim", "keygen", str(path))

    assert (code, path.read_bytes()) == (exits.CANNOT_CREATE, before)
    assert "is there already" in output


def test_show_prints_each_key_of_the_configuration(tmp_path: Path) -> None:
    """A line for each domain; or JSON."""
    path = tmp_path / "k.pem"
    run("dkim", "keygen", str(path), "--type", "ed25519")
    config = tmp_path / "smarthost.toml"
    config.write_text(
        f'hostname = "relay.example.org"\n[[dkim]]\ndomains = ["a.example", "b.example"]\nselector = "s1"\n'
        f'key_file = "{path}"\n'
    )

    code, output = run("dkim", "show", "--config", str(config))
    _, lines = run("dkim", "show", "--config", str(config), "--json")

    assert code == exits.OK
    assert [line.split()[0] for line in output.splitlines()] == ["s1._domainkey.a.example.", "s1._domainkey.b.example."]
    first = json.loads(lines.splitlines()[0])
    assert first == {"name": "s1._domainkey.a.example", "type": "TXT", "value": told(output.splitlines()[0])}


def test_show_without_keys_says_so() -> None:
    """And fails, so that a script notices."""
    code, output = run("dkim", "show", "--hostname", "relay.example.org")

    assert code == exits.CONFIG
    assert "no [[dkim]]" in output
