# SPDX-License-Identifier: MIT
"""What is said on the control socket: one JSON object a line, a request, then answers until one that ends them.

`send` alone goes on after its request: the daemon says "go", the client sends `octets` raw octets. Only fields with
defaults may be added: an old command must be able to talk to a new daemon. Values only; control and client speak it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from smarthost.queue.store import Filter, StoredMessage

SOCKET_NAME = "control"
LINE_OCTETS = 1 << 20  # a request with 1,000 recipients of 256 octets, twice over
NULL_PATH = "<>"  # in a Filter: an empty text would not restrict


class Ping(Struct, frozen=True, tag_field="verb", tag="ping"):
    """Are you there?"""


class Send(Struct, frozen=True, tag_field="verb", tag="send"):
    """Take a message; `octets` of content follow once the daemon says go."""

    reverse_path: str
    recipients: tuple[str, ...]
    octets: Annotated[int, msgspec.Meta(ge=0)]


class QueueFind(Struct, frozen=True, tag_field="verb", tag="queue-find"):
    """Give all messages with matching recipients, oldest first."""

    which: Filter = Filter()


class QueueChange(Struct, frozen=True, tag_field="verb", tag="queue-change"):
    """Apply a change to all matching recipients."""

    change: Literal["retry", "cancel"]
    which: Filter


Request = Ping | Send | QueueFind | QueueChange


class Pong(Struct, frozen=True, tag_field="what", tag="pong"):
    """I am."""

    pid: int
    version: str
    listen: tuple[tuple[str, int], ...]
    messages: int
    recipients: int


class Go(Struct, frozen=True, tag_field="what", tag="go"):
    """Send the content."""


class Filed(Struct, frozen=True, tag_field="what", tag="filed"):
    """The message is durable."""

    id: str


class Found(Struct, frozen=True, tag_field="what", tag="message"):
    """One message that matches; more follow."""

    message: StoredMessage


class ChangedSome(Struct, frozen=True, tag_field="what", tag="changed"):
    """Recipients that changed, and leased ones that got a wish instead, as (message id, number); more may follow."""

    recipients: tuple[tuple[str, int], ...]
    wished: tuple[tuple[str, int], ...]


class Done(Struct, frozen=True, tag_field="what", tag="done"):
    """That was all."""


class Refused(Struct, frozen=True, tag_field="what", tag="refused"):
    """The message is not taken, for the reason an SMTP client would have read."""

    code: int
    enhanced: str
    text: str


class Failed(Struct, frozen=True, tag_field="what", tag="failed"):
    """The request was not carried out: one line, and the exit code (sysexits) it deserves."""

    text: str
    exit_code: int


Answer = Pong | Go | Filed | Found | ChangedSome | Done | Refused | Failed

_encoder = msgspec.json.Encoder()
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def to_line(said: Request | Answer) -> bytes:
    """Encode as one line with its newline; JSON escapes every newline within."""
    return _encoder.encode(said) + b"\n"
