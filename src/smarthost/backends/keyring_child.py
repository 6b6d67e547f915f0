# SPDX-License-Identifier: MIT
"""The process that signs with RSA: `python -c ... keyring_child.main()`, started by keyring.py.

Takes frames of msgpack from one socket, keys and texts, in order; answers each text. Ends when its parent is gone.
"""

import os
import signal
import socket
import sys

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from smarthost.backends.boot import LENGTH


class Keys(msgspec.Struct, frozen=True, tag=True):
    """One more key, DER; its number is how many came before."""

    der: bytes


class ToSign(msgspec.Struct, frozen=True, tag=True):
    """Texts to be signed, each with the number of its key."""

    number: int
    texts: list[tuple[int, bytes]]


class Signed(msgspec.Struct, frozen=True):
    """The signatures of one ToSign in order, or why not."""

    number: int
    signatures: list[bytes]
    why: str = ""


def to_der(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    """Give a key as the child takes it."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def sign(key: RSAPrivateKey | Ed25519PrivateKey, text: bytes) -> bytes:
    """Sign a text: RSA over its SHA-256 (RFC 6376 3.3.1), Ed25519 over its SHA-256 as well (RFC 8463 3).

    Raises: ValueError: the key is too short for it.
    """
    if isinstance(key, RSAPrivateKey):
        return key.sign(text, PKCS1v15(), SHA256())
    digest = Hash(SHA256())
    digest.update(text)
    return key.sign(digest.finalize())


def main() -> None:
    """Serve the parent, at the other end of the descriptor that the last argument names, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.umask(0o077)
    with socket.socket(fileno=int(sys.argv[-1])) as sock:
        serve(sock)


def serve(sock: socket.socket) -> None:
    """Take frames until the end of the stream."""
    keys: list[RSAPrivateKey | Ed25519PrivateKey] = []
    decoder = msgspec.msgpack.Decoder(Keys | ToSign)
    encoder = msgspec.msgpack.Encoder()
    stream = sock.makefile("rb")
    while len(head := stream.read(LENGTH.size)) == LENGTH.size:
        frame = decoder.decode(stream.read(LENGTH.unpack(head)[0]))
        if isinstance(frame, Keys):
            key = load_der_private_key(frame.der, None)
            assert isinstance(key, RSAPrivateKey | Ed25519PrivateKey), "the parent has looked"
            keys.append(key)
            continue
        try:
            answer = Signed(frame.number, [sign(keys[number], text) for number, text in frame.texts])
        except ValueError as error:
            answer = Signed(frame.number, [], str(error))
        payload = encoder.encode(answer)
        try:
            sock.sendall(LENGTH.pack(len(payload)) + payload)
        except OSError:  # the parent is gone
            return
