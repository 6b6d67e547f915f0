# SPDX-License-Identifier: MIT
"""The content of one transaction as it comes in: small in memory, from the second piece on in a draft of the store.

Pure; reception gives it the pieces and takes the whole. A draft that cannot be written to is remembered as `failure`,
and the rest is read and forgotten: the client hears of it after the final dot. A crash leaves an orphan file, which
the store sweeps.
"""

from collections.abc import Callable

from smarthost.accept import trace
from smarthost.mail.content import Content, Draft, InlineContent
from smarthost.mail.errors import StoreError

# How long a client waits for a commit. RFC 5321 4.5.3.2.6: it listens for 600 s after the final dot; who hears nothing
# sends again all the same, and its session is not ours to keep for as long as a disk hangs.
FILING_S = 300.0


class Intake:
    """Content under way. `hops`: Received: fields counted in its first piece."""

    __slots__ = ("_begin_draft", "_draft", "_piece", "failure", "hops")

    def __init__(self, begin_draft: Callable[[], Draft]) -> None:
        self._begin_draft = begin_draft
        self._piece: bytes | None = None
        self._draft: Draft | None = None
        self.failure: StoreError | None = None
        self.hops = 0

    def take(self, octets: bytes) -> None:
        """Take the next piece."""
        if self.failure is not None:
            return
        if self._piece is None and self._draft is None:
            self.hops = trace.count_received(octets)
            self._piece = octets
            return
        try:
            if self._draft is None:
                self._draft = self._begin_draft()
                assert self._piece is not None, "the first piece was kept"
                self._draft.write(self._piece)
                self._piece = None
            self._draft.write(octets)
        except StoreError as failure:
            self.failure = failure

    def hand_over(self) -> Content:
        """Give the whole and forget it: a draft is the store's business from here on.

        Raises: StoreError: the draft cannot be finished.
        """
        draft, piece = self._draft, self._piece
        content: Content = InlineContent(piece or b"") if draft is None else draft.finish()
        self._draft = self._piece = None
        return content

    def drop(self) -> None:
        """Forget everything, the draft's file included; ready for the next transaction."""
        self._piece = None
        self.failure = None
        self.hops = 0
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()
