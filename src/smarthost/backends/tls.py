# SPDX-License-Identifier: MIT
"""TLS as a stream of octets in and out, over ssl.MemoryBIO: no socket, no loop, no timer.

Not loop.start_tls: it hands octets that came in clear before the handshake to the session after it (STARTTLS
injection), and cannot resume sessions. What a TlsStream was fed since it was made is TLS and nothing else. It serves
either side: it is given an SSLObject. When TLS is asked for is decided in route/tls_policy and send/session.
"""

import ssl
from collections.abc import Sequence

from smarthost.mail.errors import ConnectionLost, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import TlsRequest

_READ_OCTETS = 256 * 1024  # above the 16 KiB of a TLS record: SSL_read gives one record a call whatever we ask
# An unverified session that uses what a verified one would refuse is still better than clear text (RFC 7435 1.2), so
# old keys and suites pass; suites without server certificate or without encryption do not.
_OPPORTUNISTIC_CIPHERS = "DEFAULT:!aNULL:!eNULL:@SECLEVEL=0"


class TlsContexts:
    """The two client contexts, each built once when first needed (loading the CA store takes 20 ms).

    `ca_file` or `ca_text` (PEM) replace the CA store of the system.
    """

    def __init__(self, *, ca_file: str = "", ca_text: str = "") -> None:
        self._ca_file = ca_file
        self._ca_text = ca_text
        self._unverified: ssl.SSLContext | None = None
        self._verified: ssl.SSLContext | None = None

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
        self.facts = TlsFacts(version or "", cipher[0] if cipher else "", self._verified)
        return self.facts

    def read(self) -> bytes:
        """Give all octets that what was fed decrypts to; b"" when there are none yet.

        Raises: ConnectionLost: what was fed is not TLS, or was tampered with.
        """
        pieces: list[bytes] = []
        try:
            while piece := self._session.read(_READ_OCTETS):
                pieces.append(piece)
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
        return self._outgoing.read()


def _name_cause(error: Exception) -> str:
    """Say in the words of OpenSSL, without its file names and numbers, what went wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__
