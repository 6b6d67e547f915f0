# SPDX-License-Identifier: MIT
"""Content that leaves in more than one write: in DATA or in BDAT, as fast as both sides have room for it.

Called by send.session when the machine wants content and when the connection has room again. It neither waits nor has
deadlines (session does), and decides nothing: the machine says how content leaves. Raises what reading content raises.
"""

from collections.abc import Iterator

from smarthost.mail.content import Content
from smarthost.ports import Connection
from smarthost.send.transcript import Transcript
from smarthost.smtp.client import SmtpClient

CHUNK_OCTETS = 256 * 1024  # in BDAT: as large as the pieces that content is read in, since the host answers each


class Outgoing:
    """What is still to be sent: the prefix, then the content. One for each transaction that needs it."""

    __slots__ = ("_content", "_is_chunked", "_is_full")

    def __init__(self, prefix: bytes, content: Content, is_chunked: bool) -> None:
        self._is_chunked = is_chunked
        self._content: Iterator[bytes] | None = (_in_chunks if is_chunked else _with_prefix)(prefix, content)
        self._is_full = False  # the connection takes no more

    def writable(self) -> None:
        """The connection has room again; `send` goes on."""
        self._is_full = False

    def send(self, machine: SmtpClient, connection: Connection, transcript: Transcript | None) -> None:
        """Send what there is room for; when that was all, tell the machine. The machine's output is to be flushed."""
        if self._is_chunked:
            self._send_chunks(machine, connection, transcript)
        else:
            self._send_data(machine, connection)

    def _send_data(self, machine: SmtpClient, connection: Connection) -> None:
        content = self._content
        while content is not None and not self._is_full:
            if (piece := next(content, None)) is None:
                self._content = content = None
                machine.content_end()
            else:
                self._is_full = not connection.write(machine.content((piece,)))

    def _send_chunks(self, machine: SmtpClient, connection: Connection, transcript: Transcript | None) -> None:
        content = self._content
        while content is not None and machine.takes_content and not self._is_full:
            if (piece := next(content, None)) is None:
                self._content = content = None
                machine.content_end()  # LAST leaves when the host has taken all chunks
            else:
                frame = machine.content((piece,))
                if transcript is not None:
                    transcript.sent(frame[0])
                self._is_full = not connection.write(frame)


def _in_chunks(prefix: bytes, content: Content) -> Iterator[bytes]:
    """Give all of it in pieces that are not empty, the prefix together with the first of the content."""
    for piece in content.chunks():
        rest, prefix = (prefix + piece, b"") if prefix else (piece, prefix)
        for start in range(0, len(rest), CHUNK_OCTETS):
            yield rest[start : start + CHUNK_OCTETS]
    if prefix:
        yield prefix


def _with_prefix(prefix: bytes, content: Content) -> Iterator[bytes]:
    if prefix:
        yield prefix
    yield from content.chunks()
