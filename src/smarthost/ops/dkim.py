# SPDX-License-Identifier: MIT
"""`smarthost dkim keygen|show`: makes a key that signs, and prints the DNS record that must go with it."""

import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from smarthost.ops import exits, options

if TYPE_CHECKING:
    from smarthost.backends.keyring import PrivateKey

_STRING_OCTETS = 255  # of a character-string in a TXT record (RFC 1035 3.3)


@click.group()
def dkim() -> None:
    """Make DKIM keys, and show their DNS records."""


@dkim.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--type", "kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", help="Kind of key [rsa].")
@click.option("--bits", type=click.IntRange(2048, 4096), default=2048, help="Of an RSA key [2048].")
@click.option("--domain", default="", help="For the record that is printed.")
@click.option("--selector", default="", help="For the record that is printed [the name of FILE without its ending].")
def keygen(file: Path, *, kind: str, bits: int, domain: str, selector: str) -> None:
    """Write a new private key into FILE, readable by its owner only, and print its DNS record."""
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key: PrivateKey
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, bits)
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise exits.CommandFailed(
            f"{file} is there already, and mail may be signed with it", exits.CANNOT_CREATE
        ) from None
    except OSError as error:
        raise exits.CommandFailed(f"{file}: {error.strerror}", exits.CANNOT_CREATE) from None
    with os.fdopen(descriptor, "wb") as new:
        new.write(octets)
        new.flush()
        os.fsync(new.fileno())
    if not domain:
        click.echo("; put your domain in place of example.org, or say --domain")
    if not selector:
        click.echo(f"; the selector {file.stem} is from the name of the file; --selector gives another")
    click.echo(zone_line(domain or "example.org", selector or file.stem, record(key)))


@dkim.command()
@options.over_config
@options.json_lines
def show(file: Path | None, *, as_json: bool, **given: object) -> int:
    """Print the DNS record of every key in the configuration."""
    from smarthost.backends.keyring import load_key
    from smarthost.ops.settings import load

    sections = load(file, given).dkim
    if not sections:
        raise exits.CommandFailed("no [[dkim]] in the configuration", exits.CONFIG)
    for section in sections:
        text = record(load_key(section.key_file))
        for domain in section.domains:
            if as_json:
                name = f"{section.selector}._domainkey.{domain}"
                click.echo(msgspec.json.encode({"name": name, "type": "TXT", "value": text}).decode())
            else:
                click.echo(zone_line(domain, section.selector, text))
    return exits.OK


def record(key: "PrivateKey") -> str:
    """Give the TXT value of a key (RFC 6376 3.6.1, RFC 8463 4)."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, RSAPrivateKey):
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={b64encode(der).decode()}"
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={b64encode(raw).decode()}"


def zone_line(domain: str, selector: str, text: str) -> str:
    """Give a line for a zone file, the text cut into the strings that a TXT record is made of."""
    strings = [text[start : start + _STRING_OCTETS] for start in range(0, len(text), _STRING_OCTETS)]
    quoted = " ".join([f'"{string}"' for string in strings])
    return f"{selector}._domainkey.{domain}. IN TXT ( {quoted} )"
