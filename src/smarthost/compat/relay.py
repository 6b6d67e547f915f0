# SPDX-License-Identifier: MIT
"""The names of `twisted.mail.relay`: what feeds a queue, and clients that relay the messages of a queue directory.

A relayer sends the messages it is given one after the other, one recipient each, with one message file open at a time,
its content as octets. Plain relayers remove what was accepted and leave the rest where it is; managed ones
(compat.managed) tell their attempt manager instead.
"""

import os
from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any, BinaryIO

from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.addresses import read_addresses
from smarthost.compat.client import StrictClient, StrictEsmtpClient
from smarthost.compat.incoming import open_regular, remove_file
from smarthost.compat.queuer import DomainQueuer
from smarthost.compat.words import shown

__all__ = ["DomainQueuer", "ESMTPRelayer", "RelayerMixin", "SMTPRelayer"]


class ContentFile:
    """A message's content as octets, opened when something is first asked of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._file is None:
            self._file = open_regular(self.path + "-D")
        return getattr(self._file, name)

    def close(self) -> None:
        """Close it if it is open; it may be read again, from its beginning."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class RelayerMixin:
    """Gives an SMTP client the messages of a queue directory. `names`: their paths without suffix; `messages`: for each
    [sender, recipient, content], the content a file that is opened when it is read; the first is the present one.
    """

    messages: list[Any]
    names: list[Any]
    _content: BinaryIO | None = None

    def loadMessages(self, messagePaths: Sequence[str]) -> None:
        """Take these messages up. One whose envelope cannot be read is left out, and where it is."""
        self.messages = []
        self.names = []
        for path in map(os.fsdecode, messagePaths):
            try:
                with open_regular(path + "-H") as file:
                    sender, recipient = read_addresses(file, path + "-H")
            except (OSError, UnpicklingError) as error:
                log.msg(f"message {shown(path)} not taken up: {shown(str(error))}")
                continue
            self.messages.append([sender, recipient, ContentFile(path)])
            self.names.append(path)

    def getMailFrom(self) -> str | None:
        """Give the present message's sender, "" for the null reverse-path; None: there is no further message."""
        return self.messages[0][0] if self.messages else None

    def getMailTo(self) -> list[str] | None:
        """Give the present message's recipient, as a list of one."""
        return [self.messages[0][1]] if self.messages else None

    def getMailData(self) -> BinaryIO | None:
        """Open the present message's content, as octets; it is closed when the message is done with."""
        self._close()
        if self.messages:
            self._content = open_regular(self.names[0] + "-D")
        return self._content

    def sentMail(self, code: int, resp: Any, numOk: Any, addresses: Any, log: Any) -> None:
        """Go on to the next message; one that was accepted is removed, content first: an envelope alone is nothing."""
        path = self.names[0]
        self._close()
        del self.messages[0]
        del self.names[0]
        if code in smtp.SUCCESS:
            _remove(path)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close what is open."""
        self._close()
        lost = getattr(super(), "connectionLost", None)
        if lost is not None:
            lost(reason)

    def _tell_sent(self, *told: Any) -> None:
        """Tell `sentMail`. What a program's own one raises does not undo what the host said: ours is told instead."""
        left = len(self.names)
        try:
            self.sentMail(*told)
        except Exception as error:
            if not left or len(self.names) != left:
                raise  # the message is settled; the session ends
            log.msg(f"{type(self).__name__}.sentMail, message {shown(self.names[0])}: {shown(repr(error))}")
            self._settle(*told)

    def _settle(self, *told: Any) -> None:
        RelayerMixin.sentMail(self, *told)

    def _close(self) -> None:
        content, self._content = self._content, None
        if content is not None:
            content.close()
        for message in getattr(self, "messages", [])[:1]:
            if isinstance(message, list) and isinstance(message[-1], ContentFile):
                message[-1].close()


class SMTPRelayer(RelayerMixin, StrictClient):
    """Relays messages over SMTP: the paths, then the arguments of `smtp.SMTPClient`."""

    def __init__(self, messagePaths: Sequence[str], *args: Any, **kw: Any) -> None:
        smtp.SMTPClient.__init__(self, *args, **kw)
        self.loadMessages(messagePaths)


class ESMTPRelayer(RelayerMixin, StrictEsmtpClient):
    """Relays messages over ESMTP: the paths, then the arguments of `smtp.ESMTPClient`."""

    def __init__(self, messagePaths: Sequence[str], *args: Any, **kw: Any) -> None:
        smtp.ESMTPClient.__init__(self, *args, **kw)
        self.loadMessages(messagePaths)


def _remove(path: str) -> None:
    """Remove an accepted message, content first: an envelope alone counts as nothing."""
    if remove_file(path + "-D"):
        remove_file(path + "-H")
    else:
        log.msg(f"message {shown(path)} was accepted, and may be sent again")
