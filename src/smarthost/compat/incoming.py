# SPDX-License-Identifier: MIT
"""A message on its way into a queue directory: made durable file by file, and not there at all until it is.

Both files are fsynced, the content is renamed from `-C` to `-D`, the directory is fsynced, and only then is it
acknowledged. What fails on the way removes what it wrote. compat.spool begins messages; whoever receives one fills it.
A crash leaves the whole message, or a `-C` and a lone `-H`, which count as nothing.
"""

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred, fail, succeed
from twisted.mail.mail import FileMessage
from twisted.python import log

from smarthost.compat.words import shown


class EnvelopeFile(io.BufferedWriter):
    """An envelope being written. Closing it makes its content durable, or raises OSError and remembers `failure`."""

    def __init__(self, path: str) -> None:
        """Create the file; raises FileExistsError rather than touch one that is there."""
        super().__init__(io.FileIO(path, "x"))
        self.path = path
        self.failure: OSError | None = None

    def write(self, octets: Any, /) -> int:
        try:
            return super().write(octets)
        except OSError as error:
            self.failure = error  # what the buffer still holds is anybody's guess
            raise

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self.failure is None:
                self.flush()
                os.fsync(self.fileno())
        except OSError as error:
            self.failure = error  # a second fsync would say that all is well
            raise
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file without writing what is buffered."""
        with suppress(OSError):
            self.raw.close()


class DurableMessage(FileMessage):
    """A message being received. It counts when the Deferred of eomReceived has fired, and until then not at all."""

    def __init__(self, envelope: EnvelopeFile, fp: io.BufferedWriter, name: str, finalName: str) -> None:
        super().__init__(fp, name, finalName)
        self._envelope = envelope
        self._failure: OSError | None = None
        self._renamed = False
        self._kept = False

    def lineReceived(self, line: bytes) -> None:
        """Add one line, without its line end. Raises: OSError; the message cannot be kept after that."""
        try:
            self.fp.write(line + b"\n")
        except OSError as error:
            self._failure = error
            raise

    def eomReceived(self) -> "Deferred[str]":
        """Make the message durable: a Deferred that has fired with its final name when this returns.

        Or has failed, with OSError, or ValueError where there is no envelope or the message was given up before; then
        it does not count, and its files are gone if they could be removed. An envelope still open is closed first.
        """
        if not self._kept:
            try:
                self._keep()
            except (OSError, ValueError) as error:
                self.connectionLost()
                return fail(error)
        return succeed(self.finalName)

    def connectionLost(self) -> None:
        """Give the message up and remove its files, as far as they can be. Harmless when it was kept, and twice."""
        if self._kept:
            return
        with suppress(OSError):
            self.fp.close()
        self._envelope.abandon()
        # Content first: an envelope alone counts as nothing.
        if self._renamed and not remove_file(self.finalName):
            log.msg(f"{shown(self.finalName)} may be sent although it was not acknowledged: at worst a duplicate")
        remove_file(self.name)
        remove_file(self._envelope.path)

    def _keep(self) -> None:
        for failure in (self._failure, self._envelope.failure):
            if failure is not None:
                raise failure
        self._envelope.close()
        if not Path(self._envelope.path).stat().st_size:
            raise ValueError(f"{shown(self.finalName)} has no envelope: its file is empty")
        self.fp.flush()
        os.fsync(self.fp.fileno())
        self.fp.close()
        Path(self.name).rename(self.finalName)
        self._renamed = True
        sync_directory(os.path.dirname(self.finalName) or os.curdir)  # noqa: PTH120 - paths are text in this interface
        self._kept = True


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading; what is no regular file is refused, and never waited for (a FIFO has no end).

    A link is none: who may write the directory would have any file mailed that we can read. Raises: OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def remove_file(path: str) -> bool:
    """Remove a file; log why it is still there, if it is, and say no."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        log.msg(f"cannot remove {shown(path)}: {why_failed(error)}")
        return False
    return True


def sync_directory(path: str) -> None:
    """Make durable which names a directory holds. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_failed(error: OSError) -> str:
    """Say what the system said, without the path."""
    return error.strerror or type(error).__name__
