# SPDX-License-Identifier: MIT
"""DKIM keys in files: which there are, and signatures made with them. Answers ports.Keyring.

RSA is signed in a child process: half a millisecond each, which the loop has not to spare, and which a thread does not
get beside a saturated loop. Ed25519 (30 us) is signed here. A child that dies or hangs costs nothing but speed: what it
owed is signed here, and the next text starts another. Changed files are taken up; a broken one leaves the old key.
"""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from smarthost.backends import keyring_child
from smarthost.backends.boot import child_command
from smarthost.backends.channel import Channel
from smarthost.backends.keyring_child import Keys, Signed, ToSign
from smarthost.backends.watched import WatchedFiles
from smarthost.mail.errors import ConfigError
from smarthost.ports import Clock, Deadline, SigningKey, Sink

RSA_BITS_LEAST = 1024  # RFC 8301 3.2: signers MUST use 1,024 at least, and SHOULD use 2,048
RSA_BITS_SOUND = 2048
PATIENCE_S = 5.0  # a child that owes a signature for so long hangs
PrivateKey = RSAPrivateKey | Ed25519PrivateKey
_Answer = Callable[[Sequence[bytes] | Exception], None]


class KeyFile(msgspec.Struct, frozen=True):
    """A private key, PEM, and what it signs for: all these domains under one selector."""

    domains: tuple[str, ...]
    selector: str
    path: Path


def load_key(path: Path) -> PrivateKey:
    """Load a private key from PEM.

    Raises: ConfigError: names the file and what is wrong: not readable, encrypted, of another kind, or too short.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", key="dkim.key_file") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise ConfigError(f"{path}: no private key in PEM without a password: {error}", key="dkim.key_file") from error
    if isinstance(key, Ed25519PrivateKey):
        return key
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(f"{path}: DKIM knows RSA and Ed25519 keys only (RFC 8463)", key="dkim.key_file")
    if key.key_size < RSA_BITS_LEAST:
        detail = f"{path}: an RSA key of {key.key_size} bits; {RSA_BITS_LEAST} is the least (RFC 8301)"
        raise ConfigError(detail, key="dkim.key_file")
    return key


class KeyFiles:
    """The keys of some files; one event loop. Raises: ConfigError: a file holds no usable key."""

    def __init__(self, files: Sequence[KeyFile], clock: Clock, sink: Sink) -> None:
        self._files = tuple(files)
        self._clock = clock
        self._sink = sink
        self._watched = [
            WatchedFiles((str(each.path),), partial(load_key, each.path), clock, sink.note, "DKIM key not taken")
            for each in self._files
        ]
        self._keys: list[PrivateKey] = [watched.value for watched in self._watched]
        self._by_domain = self._sort()
        self._helper = _Helper(clock, sink)
        self._threads: ThreadPoolExecutor | None = None
        for each, key in zip(self._files, self._keys, strict=True):
            if isinstance(key, RSAPrivateKey) and key.key_size < RSA_BITS_SOUND:
                sink.note("warning", "DKIM key is short", file=str(each.path), bits=key.key_size)

    def _sort(self) -> dict[str, tuple[SigningKey, ...]]:
        by_domain: dict[str, tuple[SigningKey, ...]] = {}
        for handle, (file, key) in enumerate(zip(self._files, self._keys, strict=True)):
            algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
            for domain in file.domains:
                found = SigningKey(domain, file.selector, algorithm, handle)
                by_domain[domain] = (*by_domain.get(domain, ()), found)
        return by_domain

    def keys_for(self, domain: str) -> Sequence[SigningKey]:
        """See ports.Keyring."""
        self._look()
        while domain:
            if (keys := self._by_domain.get(domain)) is not None:
                return keys
            domain = domain.partition(".")[2]
        return ()

    def _look(self) -> None:
        """Take up files that have changed."""
        keys = [watched.value for watched in self._watched]
        if any(new is not old for new, old in zip(keys, self._keys, strict=True)):
            self._keys = keys
            self._by_domain = self._sort()

    def sign(self, texts: Sequence[tuple[SigningKey, bytes]], signed: _Answer) -> None:
        """See ports.Keyring."""
        keys = [self._keys[key.handle] for key, _ in texts]
        if not any(isinstance(key, RSAPrivateKey) for key in keys):
            signed(_sign_here(keys, [text for _, text in texts]))
            return
        self._helper.sign(keys, [text for _, text in texts], signed)

    def aside(self, work: Callable[[], bytes], done: Callable[[bytes | Exception], None]) -> None:
        """See ports.Keyring."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "digest")
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)

        def ended(future: "asyncio.Future[bytes]") -> None:
            failure = future.exception()
            done(future.result() if failure is None else failure if isinstance(failure, Exception) else OSError())

        running.add_done_callback(ended)

    def close(self) -> None:
        """End the child and the thread."""
        self._helper.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _sign_here(keys: Sequence[PrivateKey], texts: Sequence[bytes]) -> Sequence[bytes] | Exception:
    try:
        return [keyring_child.sign(key, text) for key, text in zip(keys, texts, strict=True)]
    except ValueError as error:  # the key cannot do it: nothing to wait for
        return error


class _Helper:
    """The child that signs with RSA, started when first needed."""

    def __init__(self, clock: Clock, sink: Sink) -> None:
        self._clock = clock
        self._sink = sink
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._told: list[PrivateKey] = []  # the keys that the child has, in its order
        self._owed: dict[int, tuple[Sequence[PrivateKey], Sequence[bytes], _Answer]] = {}
        self._number = 0
        self._patience: Deadline | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Signed)

    def sign(self, keys: Sequence[PrivateKey], texts: Sequence[bytes], signed: _Answer) -> None:
        if self._channel is None and not self._start():
            signed(_sign_here(keys, texts))
            return
        assert self._channel is not None, "it was started"
        handles = [self._tell(key) for key in keys]
        self._number += 1
        self._owed[self._number] = (keys, texts, signed)
        self._channel.send([self._encoder.encode(ToSign(self._number, list(zip(handles, texts, strict=True))))])
        if self._patience is None:
            self._patience = self._clock.deadline(PATIENCE_S, self._hangs)
        elif len(self._owed) == 1:
            self._patience.restart(PATIENCE_S)

    def _start(self) -> bool:
        ours, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and text
                child_command("smarthost.backends.keyring_child", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal is ours alone
            )  # fmt: skip
        except OSError as error:
            ours.close()
            self._sink.note("error", "cannot start the signing process", why=str(error))
            return False
        finally:
            theirs.close()
        self._told = []
        self._channel = Channel(asyncio.get_running_loop(), ours, self._heard, self._lost)
        return True

    def _tell(self, key: PrivateKey) -> int:
        """Give the child's number for a key, which it is told first if it does not know it."""
        for number, known in enumerate(self._told):
            if known is key:
                return number
        assert self._channel is not None, "it was started"
        self._told.append(key)
        self._channel.send([self._encoder.encode(Keys(keyring_child.to_der(key)))])
        return len(self._told) - 1

    def _heard(self, payload: bytes) -> None:
        answer = self._decoder.decode(payload)
        owed = self._owed.pop(answer.number, None)
        if self._patience is not None:
            if self._owed:
                self._patience.restart(PATIENCE_S)
            else:
                self._patience.cancel()
        if owed is not None:
            owed[2](answer.signatures if not answer.why else ValueError(answer.why))

    def _hangs(self) -> None:
        if self._owed and self._child is not None:
            self._sink.note("error", "signing process hangs", seconds=PATIENCE_S)
            self._child.kill()

    def _lost(self) -> None:
        """The child is gone: sign here what it owed."""
        self._forget_child()
        owed, self._owed = self._owed, {}
        if owed:
            self._sink.note("error", "signing process died", owed=len(owed))
        for keys, texts, signed in owed.values():
            signed(_sign_here(keys, texts))

    def _forget_child(self) -> None:
        self._channel = None
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()  # it is dead, or dies of this

    def close(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._channel is not None:
            self._channel.close()
        self._forget_child()
