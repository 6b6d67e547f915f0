# SPDX-License-Identifier: MIT
"""Certificates for both sides: a private authority, good ones, and those a relay must not trust."""

import datetime
import ssl
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Pair(NamedTuple):
    """A certificate with its chain, and its key: files."""

    chain: Path
    key: Path

    def as_server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context

    @property
    def fingerprint(self) -> str:
        """SHA-256, as the users file has it."""
        first = x509.load_pem_x509_certificates(self.chain.read_bytes())[0]
        return first.fingerprint(hashes.SHA256()).hex(":")


class Authority:
    """A private CA that keeps its files in `home`."""

    def __init__(self, home: Path, name: str = "ca") -> None:
        self.home = home
        self.ca = trustme.CA()
        self.file = home / f"{name}.pem"
        self.ca.cert_pem.write_to_path(str(self.file))
        self.name = name

    def issue(self, name: str, *names: str, not_after: datetime.datetime | None = None) -> Pair:
        made = self.ca.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=not_after)
        pair = Pair(self.home / f"{self.name}-{name}.pem", self.home / f"{self.name}-{name}.key")
        pair.chain.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(pair.key))
        return pair


def self_signed(home: Path, name: str, common_name: str) -> Pair:
    """A certificate that vouches for itself, with any characters at all in its names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Evil\r\nX-Injected: organisation\x1b[31m"),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pair = Pair(home / f"{name}.pem", home / f"{name}.key")
    pair.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


def expired(authority: Authority) -> Pair:
    """A certificate that ended nine days ago."""
    return authority.issue("expired", not_after=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=9))
