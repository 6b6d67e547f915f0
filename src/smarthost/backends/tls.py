# SPDX-License-Identifier: MIT
"""TLS as a stream of octets in and out, over ssl.MemoryBIO: no socket, no loop, no timer; and what both sides need.

Not loop.start_tls: it hands octets that came in clear before the handshake to the session after it (STARTTLS
injection), and cannot resume sessions. What a TlsStream was fed since it was made is TLS and nothing else. It serves
either side: it is given an SSLObject. When TLS is asked for is decided in route/tls_policy and send/session for us as a
client, in accept for us as a server. Where clients are asked for certificates backends.client_certificates is spoken.
"""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from smarthost.backends.watched import Note, WatchedFiles
from smarthost.mail.errors import ConfigError, ConnectionLost, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Clock, TlsRequest

_READ_OCTETS = 256 * 1024  # above the 16 KiB of a TLS record: SSL_read gives one record a call whatever we ask
# An unverified session that uses what a verified one would refuse is still better than clear text (RFC 7435 1.2), so
# old keys and suites pass; suites without server certificate or without encryption do not.
_OPPORTUNISTIC_CIPHERS = "DEFAULT:!aNULL:!eNULL:@SECLEVEL=0"


class SecureStream(Protocol):
    """One TLS session, of whichever library: `feed` what came in, send what `take_outgoing` gives after each call.

    The methods are described at TlsStream.
    """

    facts: TlsFacts | None
    ended: bool

    def feed(self, octets: bytes) -> None: ...
    def shake(self) -> TlsFacts | None: ...
    def read(self) -> bytes: ...
    def encrypt(self, buffers: Sequence[bytes]) -> None: ...
    def say_goodbye(self) -> None: ...
    def take_outgoing(self) -> bytes: ...


class TlsContexts:
    """The two client contexts, each built once when first needed (loading the CA store takes 20 ms).

    `ca_file` or `ca_text` (PEM) replace the CA store of the system.
    """

    def __init__(self, *, ca_file: str = "", ca_text: str = "") -> None:
        self._ca_file = ca_file
        self._ca_text = ca_text
        self._unverified: ssl.SSLContext | None = None
        self._verified: ssl.SSLContext | None = None

    def check(self) -> None:
        """Load the CA file that replaces the system's. Raises: ConfigError: it cannot be loaded."""
        if self._ca_file:
            try:
                self._for_verified()
            except TlsFailed as error:
                raise ConfigError(f"{self._ca_file}: {error}", key="next_hop.ca_file") from error

    def client(self, tls: TlsRequest) -> "TlsStream":
        """Give a stream that is ready to begin the handshake.

        Raises: TlsFailed: no certificate can be valid for such a server name, or the CA file cannot be read.
        """
        context = self._for_verified() if tls.verified else self._for_unverified()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = tls.server_name.removesuffix(".")
        try:
            session = context.wrap_bio(incoming, outgoing, server_hostname=name)
        except ValueError as error:  # includes UnicodeError: not a name that IDNA knows
            if tls.verified:
                raise TlsFailed(f"no certificate can be valid for {tls.server_name!r}", step="tls") from error
            session = context.wrap_bio(incoming, outgoing)
        return TlsStream(session, incoming, outgoing, verified=tls.verified)

    def _for_unverified(self) -> ssl.SSLContext:
        if self._unverified is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
            context.set_ciphers(_OPPORTUNISTIC_CIPHERS)
            self._unverified = context
        return self._unverified

    def _for_verified(self) -> ssl.SSLContext:
        if self._verified is None:
            try:
                context = ssl.create_default_context(cafile=self._ca_file or None, cadata=self._ca_text or None)
            except OSError as error:  # SSLError is one
                raise TlsFailed(f"the CA certificates cannot be loaded: {_name_cause(error)}", step="tls") from error
            context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
            self._verified = context
        return self._verified


class ServerTls:
    """Our side of TLS as a server: a ports.TlsService.

    The certificate file has our certificate, then its chain, in PEM; the key is in `key_file` or beside it. Clients are
    asked for a certificate when `asks_client` or a `client_ca_file` says so, and need not have one; what they show
    never ends the handshake: TlsFacts says its fingerprint, and in `verified` whether the CA file vouches for it.
    All files may change: sessions from then on see the new certificate, and tickets of before stay good while the kind
    of key stays the same. What cannot be used is noted, and the certificate of before goes on.
    Raises: ConfigError: names the file that is missing, is not what it should be, or does not fit the other.
    """

    def __init__(
        self,
        certificate_file: str,
        key_file: str = "",
        *,
        client_ca_file: str = "",
        asks_client: bool = False,
        clock: Clock,
        note: Note,
    ) -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file or certificate_file
        self._client_ca_file = client_ca_file
        self._asks_client = asks_client or bool(client_ca_file)
        self._kept: _Kept | None = None
        files = dict.fromkeys((certificate_file, self._key_file, client_ca_file))
        paths = [path for path in files if path]
        self._watched = WatchedFiles(paths, self._load, clock, note, complaint="certificate not taken")

    @property
    def can_serve(self) -> bool:
        """See ports.TlsService; always: without a certificate it is not made, and what was good once stays."""
        return True

    def stream(self) -> SecureStream:
        """Give a stream that awaits a ClientHello."""
        return self._watched.value()

    def _load(self) -> Callable[[], SecureStream]:
        kind = _read_kind(self._certificate_file)
        context = _make_server_context(self._certificate_file, self._key_file)
        if self._asks_client:
            from smarthost.backends.client_certificates import AskingContext  # 80 ms, for those who need it

            return AskingContext(self._certificate_file, self._key_file, self._client_ca_file).stream
        kept = self._kept
        if kept is not None and kept.kind is kind and _renew(kept.context, self._certificate_file, self._key_file):
            context = kept.context
        self._kept = _Kept(context, kind)
        return lambda: _make_server_stream(context)


class _Kept(Struct, frozen=True):
    """The context that has signed the tickets now in the hands of clients, and the kind of its key."""

    context: ssl.SSLContext
    kind: type


def _read_kind(path: str) -> type:
    """Give the kind of key that the first certificate of a file is for.

    A context has a place for each kind: loading an ECDSA certificate would leave the RSA one of before in use.
    """
    from cryptography import x509  # 77 ms, for those who need it
    from cryptography.exceptions import UnsupportedAlgorithm

    _read(path, "certificate_file")
    try:
        return type(x509.load_pem_x509_certificate(Path(path).read_bytes()).public_key())
    except ValueError as error:
        raise ConfigError(f"{path} does not begin with a certificate in PEM", key="certificate_file") from error
    except (x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} has a certificate of no known kind: {error}", key="certificate_file") from error


def _read(path: str, key: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", key=key) from error


def _make_server_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """Give a context; the suites and curves are OpenSSL's and Python's, none of which RFC 9325 forbids."""
    _read(key_file, "key_file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE  # RFC 9325 3
    context.num_tickets = 1  # of two, OpenSSL's default, mail clients use one: 370 us a handshake instead of 430
    try:
        context.load_cert_chain(certificate_file, key_file, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {key_file} is not that of the certificate in {certificate_file}"
        else:
            text = f"{key_file} has no usable key in PEM for {certificate_file}: {_name_cause(error)}"
        raise ConfigError(text, key="key_file") from error
    except _EncryptedKey as error:
        raise ConfigError(f"the key in {key_file} has a password: give one without", key="key_file") from error
    return context


class _EncryptedKey(Exception):
    """OpenSSL asks for a password, and would ask the terminal."""


def _refuse_password() -> str:
    raise _EncryptedKey


def _renew(context: ssl.SSLContext, certificate_file: str, key_file: str) -> bool:
    """Change the certificate of a context in use; False if the files have changed once more meanwhile."""
    try:
        context.load_cert_chain(certificate_file, key_file, password=_refuse_password)
    except (OSError, _EncryptedKey):  # SSLError is an OSError
        return False
    return True


def _make_server_stream(context: ssl.SSLContext) -> "TlsStream":
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    return TlsStream(context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)


class TlsStream:
    """One TLS session: `feed` what came in, send what `take_outgoing` gives after each call.

    `facts` is None until the handshake is complete. `ended`: the peer has said close_notify.
    """

    def __init__(
        self, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, verified: bool = False
    ) -> None:
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing
        self._verified = verified
        self.facts: TlsFacts | None = None
        self.ended = False

    def feed(self, octets: bytes) -> None:
        """Take octets from the wire, in pieces of any size."""
        self._incoming.write(octets)

    def shake(self) -> TlsFacts | None:
        """Go on with the handshake as far as what was fed allows; give the facts when it is complete.

        Raises: TlsFailed: it cannot succeed; an alert for the peer may be outgoing.
        """
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise TlsFailed(_name_cause(error), step="tls") from error
        cipher = self._session.cipher()
        version = self._session.version()
        is_resumed = bool(self._session.session_reused)
        self.facts = TlsFacts(version or "", cipher[0] if cipher else "", self._verified, resumed=is_resumed)
        return self.facts

    def read(self) -> bytes:
        """Give all octets that what was fed decrypts to; b"" when there are none yet.

        Raises: ConnectionLost: what was fed is not TLS, or was tampered with.
        """
        pieces: list[bytes] = []
        session, incoming = self._session, self._incoming
        try:
            while piece := session.read(_READ_OCTETS):
                pieces.append(piece)
                if not incoming.pending and not session.pending():
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)  # asking again would only raise: 10 us
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise ConnectionLost(f"TLS failed: {_name_cause(error)}", step="tls") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, buffers: Sequence[bytes]) -> None:
        """Encrypt all buffers in order, as few records as will hold them."""
        octets = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        if octets:
            self._session.write(octets)

    def say_goodbye(self) -> None:
        """Send close_notify; the peer's is not waited for (RFC 8446 6.1 lets each side end its own direction)."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            return  # it wants the peer's, or the session is broken already: either way our part is done

    def take_outgoing(self) -> bytes:
        """Give the octets that must go to the wire now; b"" if none."""
        return self._outgoing.read() if self._outgoing.pending else b""


def _name_cause(error: Exception) -> str:
    """Say in the words of OpenSSL, without its file names and numbers, what went wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__
