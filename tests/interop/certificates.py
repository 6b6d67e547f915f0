# SPDX-License-Identifier: MIT
"""A private authority and one certificate of its, in files that programs under any user can read."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

NAMES = ("localhost", "127.0.0.1", "relay.example.org")


class Certificate(NamedTuple):
    """The CA, the certificate with its chain, the key: files; and the authority, for more of them."""

    ca: Path
    chain: Path
    key: Path
    authority: trustme.CA


@contextmanager
def certificate(*names: str) -> Iterator[Certificate]:
    """Make a certificate for `names` (those of loopback, unless told) that lasts for the block."""
    home = Path(tempfile.mkdtemp(prefix="smarthost-tls-", dir="/tmp"))
    try:
        home.chmod(0o755)  # scratch keys: Exim's own user reads them
        authority = trustme.CA()
        made = authority.issue_cert(*(names or NAMES))
        files = Certificate(home / "ca.pem", home / "chain.pem", home / "key.pem", authority)
        authority.cert_pem.write_to_path(str(files.ca))
        files.chain.write_bytes(b"".join([each.bytes() for each in made.cert_chain_pems]))
        made.private_key_pem.write_to_path(str(files.key))
        for file in (files.ca, files.chain, files.key):
            file.chmod(0o644)
        yield files
    finally:
        shutil.rmtree(home, ignore_errors=True)
