# SPDX-License-Identifier: MIT
"""TcpConnection: ports.Connection over a transport of asyncio or uvloop, in clear or TLS. Made by backends.tcp.

A receiver that raises loses its connection and nothing else; the bug goes to the loop's exception handler. TLS is done
by backends.tls, on the octets; as a server each step of a handshake waits its turn (backends.handshakes), as a client
none does: we choose how many hosts we dial. An end of stream by the peer ends the connection at once, and what is
written after it is dropped; but in clear a receiver may still owe it a reply (Exim ends its side behind its last
message, and then reads), and closes itself. With TLS it ends without close_notify too: SMTP marks the end of all it
says itself, so a cut is never taken for an end.

Our own close lingers: it ends our direction, then reads and drops until the peer ends too, or LINGER_S have passed.
Closing outright makes the kernel reset the connection when the peer has sent something unread (session tickets, the
rest of a pipeline), and a reset destroys our last words on their way. Measured: 2 us more per connection.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from smarthost.backends.handshakes import HandshakeTurns
from smarthost.backends.sockets import NOWHERE, SocketAddress, name_cause, to_address
from smarthost.backends.tls import SecureStream, ServerTls, TlsContexts
from smarthost.mail.errors import ConnectionLost, LocalProtocolError, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Clock, Connection, Deadline, Receiver, TlsRequest, TlsService

FLUSH_S = 30.0  # a close that has not flushed by then aborts; a peer that reads at all takes 64 KiB in that time
UNSHAKEN_OCTETS = 64 * 1024  # taken in while a handshake awaits its turn; a ClientHello with all its keys has 2 KiB
LINGER_S = 2.0  # for the peer to hear our end and answer with its own: several round trips of a slow path


class _Nobody:
    """The receiver before one is attached and after it was told `lost`."""

    def received(self, chunk: bytes) -> None: ...
    def writable(self) -> None: ...
    def secured(self, facts: TlsFacts) -> None: ...
    def lost(self, why: Exception | None) -> None: ...
    def ended(self) -> bool:
        return False


_NOBODY = _Nobody()


class TcpConnection(asyncio.Protocol):
    """A Connection over TCP, and over TLS after `upgrade`.

    `turns` are shared by all connections of a loop that may be servers. `ends`: peer and local address, where a
    balancer has told them.
    """

    _transport: asyncio.Transport

    def __init__(
        self,
        clock: Clock,
        contexts: TlsContexts,
        turns: HandshakeTurns,
        accepted: Callable[[Connection], Receiver | None] | None = None,
        ends: tuple[SocketAddress, SocketAddress] | None = None,
    ) -> None:
        self._clock = clock
        self._contexts = contexts
        self._turns = turns
        self._accepted = accepted
        self._ends = ends
        self._receiver: Receiver = _NOBODY
        self._take: Callable[[bytes], None] = self._hold
        self._held: list[bytes] = []  # came in, but may not be told yet: nobody is attached, or receiving is paused
        self._tls: SecureStream | None = None
        self._serves_tls = self._awaits_turn = False
        self._unshaken = 0  # octets that came in since the last turn
        self._peer = NOWHERE
        self._has_ended = self._paused = self._full = self._closing = self._flushed = self._lost = False
        self._why: Exception | None = None  # overrules what the transport says
        self._ending: Deadline | None = None
        self._ends_by = 0.0

    # -- ports.Connection ---------------------------------------------------------------------------------------------

    @property
    def peer(self) -> SocketAddress:
        return self._peer

    @property
    def local(self) -> SocketAddress:
        return self._ends[1] if self._ends is not None else to_address(self._transport.get_extra_info("sockname"))

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._lost:
            asyncio.get_running_loop().call_soon(self._tell_lost)
        elif self._held:
            asyncio.get_running_loop().call_soon(self._tell_held)
        else:
            self._aim()

    def write(self, buffers: Sequence[bytes]) -> bool:
        """See ports.Connection; True once closed, since `writable` will not come any more."""
        if self._closing:
            return True
        if self._tls is not None:
            self._encrypt(self._tls, buffers)
        elif len(buffers) == 1:
            self._transport.write(buffers[0])
        else:
            self._transport.writelines(buffers)  # uvloop: one writev; asyncio joins. Joining here gained nothing
        return not self._full

    def pause(self) -> None:
        self._paused = True
        if not self._closing:
            self._aim()
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._held:
            asyncio.get_running_loop().call_soon(self._tell_held)
        elif not self._closing:
            self._aim()
            self._transport.resume_reading()

    def upgrade(self, tls: TlsRequest | TlsService) -> None:
        """See ports.Connection.

        What comes in from now on is TLS, also what the peer sent in clear before it saw our first record.
        Raises: LocalProtocolError: TLS has begun already, or it is the service of another backend.
        """
        if self._tls is not None:
            raise LocalProtocolError("upgrade of a connection that has TLS already")
        if self._closing:
            return
        if isinstance(tls, TlsRequest):
            try:
                self._tls = self._contexts.client(tls)
            except TlsFailed as error:
                self._fail(error)
                return
        elif isinstance(tls, ServerTls):
            self._tls = tls.stream()
            self._serves_tls = True
        else:
            raise LocalProtocolError(f"{type(tls).__name__} is no TLS for TCP")
        for chunk in self._held:  # nobody was told of it, so it is TLS, or fails as such
            self._tls.feed(chunk)
        has_begun = bool(self._held) or not self._serves_tls  # a client has the first word
        self._held.clear()
        self._aim()
        if not self._paused:
            self._transport.resume_reading()
        if has_begun:
            self._go_on_shaking(self._tls)

    def close(self) -> None:
        if self._closing:
            return
        if self._tls is not None and self._tls.facts is not None:
            self._tls.say_goodbye()
            self._send_outgoing(self._tls)
        self._end_our_direction()

    def abort(self) -> None:
        self._closing = True
        self._held.clear()
        self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._peer = self._ends[0] if self._ends is not None else to_address(transport.get_extra_info("peername"))
        if self._accepted is None:
            return
        accepted, self._accepted = self._accepted, None
        receiver = None
        if self._peer != NOWHERE:  # else it was reset while it waited to be accepted
            try:
                receiver = accepted(self)
            except Exception as error:  # noqa: BLE001 - a bug costs one connection, not the listener
                self._contain(error)
        if receiver is None:
            self.abort()
        else:
            self.attach(receiver)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception as error:  # noqa: BLE001 - a bug costs one connection, not the process
            self._contain(error)

    def eof_received(self) -> bool:
        self._has_ended = True
        if self._tls is not None and self._tls.facts is None and not self._closing:
            self._why = TlsFailed("the peer closed the connection during the handshake", step="tls")
        elif self._tls is None and not self._closing and self._receiver.ended():
            return True  # half open, until the receiver closes
        self._begin_ending()  # and the transport closes itself, once it has flushed
        return False

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False  # told later: asyncio's transport breaks when it is closed from inside this call
        asyncio.get_running_loop().call_soon(self._tell_writable)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if exc is not None and self._why is None and not self._flushed:
            self._why = self._translate(exc)
        self._closing = self._lost = True
        self._held.clear()
        if self._receiver is not _NOBODY:
            self._tell_lost()

    # -- telling the receiver -----------------------------------------------------------------------------------------

    def _aim(self) -> None:
        """Choose who takes what comes in next."""
        if self._tls is not None:
            self._take = self._decrypt
        elif self._paused or self._receiver is _NOBODY:
            self._take = self._hold
        else:
            self._take = self._receiver.received

    def _hold(self, chunk: bytes) -> None:
        """Keep what may not be told yet; uvloop starts reading after connection_made even if that paused it."""
        self._held.append(chunk)
        self._transport.pause_reading()

    def _tell_held(self) -> None:
        if self._paused or not self._held:
            return
        chunk = b"".join(self._held)
        self._held.clear()
        self._aim()
        self._transport.resume_reading()
        try:
            self._receiver.received(chunk)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._contain(error)
        if self._tls is not None and self._tls.ended:
            self.close()

    def _tell_writable(self) -> None:
        if self._closing or self._full:
            return
        try:
            self._receiver.writable()
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._contain(error)

    def _tell_lost(self) -> None:
        receiver, self._receiver = self._receiver, _NOBODY
        self._take = _NOBODY.received  # breaks the cycle with the receiver: memory is freed without the collector
        try:
            receiver.lost(self._why)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._report(error)

    # -- TLS ----------------------------------------------------------------------------------------------------------

    def _decrypt(self, chunk: bytes) -> None:
        stream = self._tls
        assert stream is not None, "aimed here only by TLS"
        stream.feed(chunk)
        if stream.facts is not None:
            self._read(stream)
            return
        self._unshaken += len(chunk)
        if self._unshaken > UNSHAKEN_OCTETS and self._serves_tls:
            self._transport.pause_reading()
        self._go_on_shaking(stream)

    def _go_on_shaking(self, stream: SecureStream) -> None:
        if not self._serves_tls:
            self._shake(stream)
        elif not self._awaits_turn:
            self._awaits_turn = True
            self._turns.enqueue(self._take_turn)

    def _take_turn(self) -> bool:
        self._awaits_turn = False
        stream = self._tls
        assert stream is not None, "only TLS awaits turns"
        if self._closing:
            return False
        if self._unshaken > UNSHAKEN_OCTETS and not self._paused:
            self._transport.resume_reading()
        self._unshaken = 0
        try:
            self._shake(stream)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._contain(error)
        return True

    def _shake(self, stream: SecureStream) -> None:
        try:
            facts = stream.shake()
        except TlsFailed as error:
            self._send_outgoing(stream)  # the alert, so that the peer's log says why
            self._fail(error)
            return
        if facts is None or not self._serves_tls or facts.version != "TLSv1.3":
            self._send_outgoing(stream)  # in 1.3 all that is left is a ticket, which rides along with our next words
        if facts is not None:
            self._receiver.secured(facts)
            self._read(stream, is_first=True)

    def _read(self, stream: SecureStream, *, is_first: bool = False) -> None:
        if self._closing:
            return
        try:
            octets = stream.read()
        except ConnectionLost as error:
            self._fail(error)
            return
        if not is_first:
            self._send_outgoing(stream)  # a key update answers
        if octets and self._paused:
            self._held.append(octets)
        elif octets:
            self._receiver.received(octets)
        if stream.ended and not self._held:
            self.close()

    def _encrypt(self, stream: SecureStream, buffers: Sequence[bytes]) -> None:
        if stream.facts is None:
            raise LocalProtocolError("write during a TLS handshake")
        stream.encrypt(buffers)
        self._send_outgoing(stream)

    def _send_outgoing(self, stream: SecureStream) -> None:
        octets = stream.take_outgoing()
        if octets:
            self._transport.write(octets)

    # -- ending -------------------------------------------------------------------------------------------------------

    def _end_our_direction(self) -> None:
        self._begin_ending()
        if self._has_ended:  # there is nothing to wait for: the transport flushes, and is gone
            self._transport.close()
            return
        self._flushed = not self._transport.get_write_buffer_size()
        self._transport.resume_reading()  # to see the peer's end
        try:
            self._transport.write_eof()
        except OSError:  # the peer has reset it: there is no direction left to end
            self._transport.abort()

    def _begin_ending(self) -> None:
        """Tell nothing more but `lost`, which is due by FLUSH_S at the latest."""
        if self._closing:
            return
        self._closing = True
        self._held.clear()
        self._take = _NOBODY.received
        self._ends_by = self._clock.monotonic() + FLUSH_S
        self._ending = self._clock.deadline(LINGER_S, self._stop_waiting)

    def _stop_waiting(self) -> None:
        if not self._transport.get_write_buffer_size():
            self._transport.abort()  # all is with the kernel, which goes on delivering it
        elif self._clock.monotonic() < self._ends_by:
            assert self._ending is not None, "it is what has expired"
            self._ending.restart(LINGER_S)
        else:
            self._why = self._why or ConnectionLost(f"the peer did not take within {FLUSH_S:g} s what we had written")
            self._transport.abort()

    def _fail(self, why: Exception) -> None:
        self._why = why
        if not self._closing:
            self._end_our_direction()

    def _contain(self, error: Exception) -> None:
        self._report(error)
        self._why = ConnectionLost(f"dropped after an error of our own: {type(error).__name__}")
        self.abort()

    def _report(self, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": "a receiver raised; its connection is dropped",
                "exception": error,
                "transport": self._transport,
            }
        )

    def _translate(self, error: Exception) -> Exception:
        text = name_cause(error)
        if self._tls is not None and self._tls.facts is None:
            return TlsFailed(f"{text} during the handshake", step="tls")
        return ConnectionLost(text)
