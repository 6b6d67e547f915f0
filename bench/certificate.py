# SPDX-License-Identifier: MIT
"""One self-signed certificate for both relays and the sink: ECDSA P-256, for a week, made at the start of a run."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct


class Certificate(Struct, frozen=True):
    """Where it and its key are, PEM."""

    certificate: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """Write a certificate and its key into a directory."""
    from cryptography import x509  # 80 ms, for those who need it
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay.bench.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("relay.bench.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made
