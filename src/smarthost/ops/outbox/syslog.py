# SPDX-License-Identifier: MIT
"""Sends records to a syslog in RFC 5424: facility mail, the record as JSON after "@cee:".

To a Unix socket (datagrams, or a stream where that is what listens), by UDP (RFC 5426), or by TCP with octet counting
(RFC 6587 3.4.1). Sent aside with deadlines; what was not taken is sent again, so nothing is lost while the syslog can
say that it takes nothing. UDP, and what a syslog drops later, nobody can see.
"""

import errno
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from smarthost.mail.record import TROUBLES, Record
from smarthost.ops import words
from smarthost.ops.outbox.aside import Aside
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.lines import to_line

SEND_S = 5.0  # for one message
BATCH_S = 20.0
BATCH = 200
MESSAGE_OCTETS = 7500  # RFC 5424 6.1: 2,048 are sure, common ones take 8,192
UDP_OCTETS = 1400  # RFC 5426 3.2: within one packet
TEXT_CHARACTERS = 200  # of each text in a record that is too long
_MAIL = 2 << 3  # facility (RFC 5424 6.2.1)
_WARNING, _INFO = 4, 6
_DATAGRAM_PLACE = frozenset({errno.EPROTOTYPE})
_SHORTENED = ("reply", "why", "message_id", "tls", "reverse_path", "recipient")


class Syslog:
    """One syslog. `place` as the configuration has it; `hostname`: ours."""

    def __init__(self, place: str, hostname: str) -> None:
        self._place = place
        self._hostname = hostname[:255]
        self._aside = Aside("syslog")
        self._socket: socket.socket | None = None
        self._is_stream = False
        self._frame_end = b""
        self._sent = 0

    async def deliver(self, records: Sequence[Record]) -> int:
        """Send some of them, and give how many were taken. Raises: Undelivered: not even the first."""
        batch = records[:BATCH]
        limit = UDP_OCTETS if self._place.startswith("udp:") else MESSAGE_OCTETS
        messages = [to_message(record, self._hostname, limit) for record in batch]
        try:
            return await self._aside.run(lambda: self._send_all(messages), BATCH_S)
        except TimeoutError as error:
            raise Undelivered(f"{self._place} takes nothing{f': {error}' if str(error) else ''}") from None
        except OSError as error:
            raise Undelivered(f"{self._place}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Close the socket."""
        if not self._aside.is_busy:
            self._close()

    def _send_all(self, messages: Sequence[bytes]) -> int:
        for number, message in enumerate(messages):
            try:
                self._send(message)
            except OSError:
                self._close()
                if number:  # those were taken; the next try says what is wrong
                    return number
                raise
        return len(messages)

    def _send(self, message: bytes) -> None:
        if self._socket is not None and self._is_stream and _is_gone(self._socket):
            self._close()
        if self._socket is None:
            self._socket = self._connect()
        if not self._is_stream:
            self._socket.send(message)
        elif self._frame_end:
            self._socket.sendall(message + self._frame_end)
        else:
            self._socket.sendall(b"%d " % len(message) + message)

    def _connect(self) -> socket.socket:
        if self._place.startswith("unix:"):
            return self._connect_unix(self._place.removeprefix("unix:"))
        is_udp = self._place.startswith("udp:")
        host, _, port = self._place.removeprefix("udp:").rpartition(":")
        host = host.strip("[]")
        self._is_stream, self._frame_end = not is_udp, b""
        if not is_udp:
            return socket.create_connection((host, int(port)), timeout=SEND_S)
        family, kind, number, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        return _connected(socket.socket(family, kind, number), address)

    def _connect_unix(self, path: str) -> socket.socket:
        try:
            opened = _connected(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), path)
        except OSError as error:
            if error.errno not in _DATAGRAM_PLACE:
                raise
            opened = _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
            self._is_stream, self._frame_end = True, b"\n"  # what local streams have; JSON has no newline
        else:
            self._is_stream = False
        return opened

    def _close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None


def _connected(opened: socket.socket, address: object) -> socket.socket:
    try:
        opened.settimeout(SEND_S)
        opened.connect(address)  # type: ignore[arg-type]
    except BaseException:
        opened.close()
        raise
    return opened


def _is_gone(stream: socket.socket) -> bool:
    """Has the syslog closed its end? It never says anything else; what is sent to who is gone, nobody reads."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    try:
        return bool(poll.poll(0)) and not stream.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def to_message(record: Record, hostname: str, limit: int) -> bytes:
    """Give a record as RFC 5424 has it, within `limit` octets: one that is longer is cut where its texts are."""
    severity = _WARNING if record.kind in TROUBLES else _INFO
    host = hostname if hostname.isascii() and hostname.isprintable() and " " not in hostname and hostname else "-"
    kind = record.kind.value
    head = f"<{_MAIL + severity}>1 {words.iso_utc(record.at)} {host} smarthost {os.getpid()} {kind} - @cee: "
    line = to_line(record)
    if len(head) + len(line) > limit:
        line = to_line(_shorten(record))
    if len(head) + len(line) > limit:
        line = words.json_line({"cut": True, "kind": kind, "id": record.id}).encode()
    return head.encode() + line


def _shorten(record: Record) -> Record:
    """Cut each text, and leave out what is long by nature; the store has the whole."""
    texts = {name: getattr(record, name)[:TEXT_CHARACTERS] for name in _SHORTENED}
    return msgspec.structs.replace(record, **texts, walk=(), transcript=(), recipients=record.recipients[:5])
