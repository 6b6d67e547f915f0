# SPDX-License-Identifier: MIT
"""The content of one transaction as it comes in: small in memory, from the second piece on in a draft of the store.

Pure; reception gives it the pieces and takes the whole. The first piece is all of small content and at least the first
64 KiB of large content, and is what gets looked through. A draft that cannot be written to is remembered as `failure`,
and the rest is read and forgotten: the client hears of it after the final dot. A crash leaves an orphan file, which
the store sweeps.
"""

from collections.abc import Callable

from smarthost.accept import submission, trace
from smarthost.mail.content import Content, Draft, InlineContent
from smarthost.mail.errors import StoreError

# How long a client waits for a commit. RFC 5321 4.5.3.2.6: it listens for 600 s after the final dot; who hears nothing
# sends again all the same, and its session is not ours to keep for as long as a disk hangs.
FILING_S = 300.0


class Intake:
    """Content under way.

    `hops`, `tls_optional`, `message_id`: what its header section says, as far as it is in the first piece.
    """

    __slots__ = ("_begin_draft", "_draft", "_piece", "failure", "hops", "message_id", "tls_optional")

    def __init__(self, begin_draft: Callable[[], Draft]) -> None:
        self._begin_draft = begin_draft
        self._piece = b""  # the first
        self._draft: Draft | None = None
        self.failure: StoreError | None = None
        self.hops = 0
        self.tls_optional = False
        self.message_id = ""

    def take(self, octets: bytes) -> None:
        """Take the next piece."""
        if not self._piece:
            self.hops, self.tls_optional, self.message_id = trace.survey(octets)
            self._piece = octets
            return
        if self.failure is not None:
            return
        try:
            if self._draft is None:
                self._draft = self._begin_draft()
                self._draft.write(self._piece)
            self._draft.write(octets)
        except StoreError as failure:
            self.failure = failure

    def missing_fields(self, now: float, id: str, hostname: str) -> bytes:
        """Give the fields that a submission must have and this one lacks (accept.submission)."""
        return submission.missing_fields(self._piece, now, id, hostname, is_whole=self._draft is None)

    def hand_over(self) -> Content:
        """Give the whole and forget it: a draft is the store's business from here on.

        Raises: StoreError: the draft cannot be finished.
        """
        draft = self._draft
        content: Content = InlineContent(self._piece) if draft is None else draft.finish()
        self._draft = None
        self._piece = b""
        return content

    def drop(self) -> None:
        """Forget everything, the draft's file included; ready for the next transaction."""
        self._piece = b""
        self.failure = None
        self.hops = 0
        self.tls_optional = False
        self.message_id = ""
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()
