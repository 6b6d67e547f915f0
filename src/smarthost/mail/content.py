# SPDX-License-Identifier: MIT
"""Content: header section and body, the octets as received. It is never decoded, never split into lines."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from msgspec import Struct


@runtime_checkable
class Content(Protocol):
    """Readable content of known size; may live in memory or in a file."""

    @property
    def octets(self) -> int:
        """How many octets in all."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Give the octets in order, in pieces of at most 256 KiB when they are not in memory anyway.

        Raises: StoreError: the file behind it cannot be read.
        """
        ...


class InlineContent(Struct, frozen=True, gc=False):
    """Content held in memory."""

    body: bytes

    @property
    def octets(self) -> int:
        return len(self.body)

    def chunks(self) -> Iterator[bytes]:
        yield self.body


class Draft(Protocol):
    """Content being received that is too large to keep in memory; written in pieces, durable only after `add`."""

    def write(self, octets: bytes) -> None:
        """Append. Raises: StoreFull, StoreError: from then on the draft is useless; discard it."""

    def finish(self) -> Content:
        """End it and give the content to put into a Message; that message's `add` makes it durable."""

    def discard(self) -> None:
        """Forget it and its file; harmless when repeated or after `finish`, as long as it was not added."""
