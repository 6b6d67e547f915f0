# SPDX-License-Identifier: MIT
"""TLS as a server that asks its clients for certificates, and lets no certificate end the handshake.

By pyOpenSSL, since the ssl module of Python can only ask for certificates that a CA vouches for: any other one, also of
a client that has a password as well, ends the handshake, and a self-signed one cannot be known by its fingerprint. Here
a callback takes what is shown and remembers whether a CA vouched for it. The client has the key in any case: it signs.
Who a certificate stands for is not decided here. Sessions are not resumed, so each shows its certificate.
"""

from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL, crypto

from smarthost.mail.errors import ConfigError, ConnectionLost, TlsFailed
from smarthost.mail.hop import TlsFacts

_RECORD_OCTETS = 16 * 1024
_WIRE_OCTETS = 256 * 1024
# As the ssl module: forward secrecy, none of what RFC 9325 4.1 forbids. TLS 1.3 has a list of its own.
_CIPHERS = b"@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"


class AskingContext:
    """What the sessions of a listener share. Raises: ConfigError: names a file that cannot be used."""

    def __init__(self, certificate_file: str, key_file: str, client_ca_file: str = "") -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)  # RFC 8996
        context.set_options(
            SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_cipher_list(_CIPHERS)
        try:
            context.use_certificate_chain_file(certificate_file)
            context.use_privatekey_file(key_file)
            context.check_privatekey()
        except SSL.Error as error:
            raise ConfigError(f"{certificate_file} and {key_file}: {_name_cause(error)}", key="key_file") from error
        if client_ca_file:
            try:
                context.load_verify_locations(client_ca_file)
            except SSL.Error as error:
                text = f"{client_ca_file} has no CA certificates that can be read"
                raise ConfigError(text, key="client_ca_file") from error
        context.set_verify(SSL.VERIFY_PEER, _take_any)
        self._context = context

    def stream(self) -> "AskingStream":
        """Give a stream that awaits a ClientHello."""
        return AskingStream(self._context)


def _take_any(session: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_good: int) -> bool:
    if not is_good:
        session.set_app_data(False)
    return True


class AskingStream:
    """One session; backends.tls.SecureStream."""

    def __init__(self, context: SSL.Context) -> None:
        self._session = SSL.Connection(context, None)
        self._session.set_accept_state()
        self._session.set_app_data(True)  # is what was shown vouched for?
        self.facts: TlsFacts | None = None
        self.ended = False

    def feed(self, octets: bytes) -> None:
        while octets:
            octets = octets[self._session.bio_write(octets) :]

    def shake(self) -> TlsFacts | None:
        try:
            self._session.do_handshake()
        except SSL.WantReadError:
            return None
        except SSL.Error as error:
            raise TlsFailed(_name_cause(error), step="tls") from error
        shown = self._session.get_peer_certificate(as_cryptography=True)
        self.facts = TlsFacts(
            self._session.get_protocol_version_name(),
            self._session.get_cipher_name() or "",
            verified=shown is not None and bool(self._session.get_app_data()),
            fingerprint="" if shown is None else shown.fingerprint(SHA256()).hex(),
        )
        return self.facts

    def read(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._session.recv(_RECORD_OCTETS))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            raise ConnectionLost(f"TLS failed: {_name_cause(error)}", step="tls") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, buffers: Sequence[bytes]) -> None:
        octets = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        if octets:
            self._session.sendall(octets)

    def say_goodbye(self) -> None:
        try:
            self._session.shutdown()
        except SSL.Error:
            return  # the session is broken already

    def take_outgoing(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._session.bio_read(_WIRE_OCTETS))
        except SSL.WantReadError:
            return b"".join(pieces)


def _name_cause(error: SSL.Error) -> str:
    """Say in the words of OpenSSL what went wrong."""
    try:
        return str(error.args[0][0][2]) or "the TLS library does not say why"
    except (IndexError, TypeError):
        return str(error) or "the TLS library does not say why"
