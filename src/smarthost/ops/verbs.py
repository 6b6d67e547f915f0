# SPDX-License-Identifier: MIT
"""What is said on the control socket: one JSON object a line, a request, then answers until one that ends them.

`send` alone goes on after its request: the daemon says "go", the client sends `octets` raw octets. Only fields with
defaults may be added: an old command must be able to talk to a new daemon. Values only; control and client speak it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from smarthost.mail.backup import Backup
from smarthost.mail.change import Change, Effects
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.mail.story import Story, Summary, Suspension
from smarthost.ops.outbox.report import OutboxReport
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import Filter, StoredMessage

SOCKET_NAME = "control"
LINE_OCTETS = 1 << 20  # a request with 1,000 recipients of 256 octets, twice over
TEXT_CHARACTERS = 1024  # of a name or address that is asked for; the longest path has 256 octets (RFC 5321 4.5.3.1.3)

Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS)]


class Ping(Struct, frozen=True, tag_field="verb", tag="ping"):
    """Are you there?"""


class Send(Struct, frozen=True, tag_field="verb", tag="send"):
    """Take a message; `octets` of content follow once the daemon says go."""

    reverse_path: str
    recipients: tuple[str, ...]
    octets: Annotated[int, msgspec.Meta(ge=0)]


class QueueFind(Struct, frozen=True, tag_field="verb", tag="queue-find"):
    """Give all messages with matching recipients, oldest first. `lane`: of destinations on this lane, "" for any."""

    which: Filter = Filter()
    lane: Text = ""


class QueueChange(Struct, frozen=True, tag_field="verb", tag="queue-change"):
    """Apply a change to all matching recipients; `by` is on whose behalf, `via` is for "reroute".

    With `dry_run` nothing changes, and the answers are what would.
    """

    change: Literal["retry", "hold", "release", "cancel", "bounce", "expire", "reroute"]
    which: Filter
    lane: Text = ""
    by: Text = ""
    reason: Text = ""
    via: Text = ""
    dry_run: bool = False


class QueueSummary(Struct, frozen=True, tag_field="verb", tag="queue-summary"):
    """Count the queue by destination, sender and reason; at most `n` names of each."""

    n: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


class Why(Struct, frozen=True, tag_field="verb", tag="why"):
    """Tell the stories of the message with this id or Message-ID, or of the newest `n` to this address."""

    text: Text
    n: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10


class Suspend(Struct, frozen=True, tag_field="verb", tag="suspend"):
    """Try nothing for a destination, or hold all mail of a sender."""

    subject: Text
    reason: Text = ""
    by: Text = ""


class EndSuspension(Struct, frozen=True, tag_field="verb", tag="end-suspension"):
    """Let a suspended destination or sender go on."""

    subject: Text
    by: Text = ""


class SuspensionsFind(Struct, frozen=True, tag_field="verb", tag="suspensions-find"):
    """Give what is suspended, longest first."""


class Watch(Struct, frozen=True, tag_field="verb", tag="watch"):
    """Give how much is under way at this moment, and what was done since the start."""


class QueueCheck(Struct, frozen=True, tag_field="verb", tag="queue-check"):
    """Check the progress invariant of all recipients now, and give what violates it."""


class HostsFind(Struct, frozen=True, tag_field="verb", tag="hosts-find"):
    """Give all hosts that are not closed whose name, address or service is `text` ("": all), longest broken first."""

    text: Text = ""


class HostsReset(Struct, frozen=True, tag_field="verb", tag="hosts-reset"):
    """Close hosts, as `text` finds them, and give what they were; all of them only where `everything` says so too."""

    text: Text = ""
    everything: bool = False


class Pause(Struct, frozen=True, tag_field="verb", tag="pause"):
    """Take mail, but deliver, expire and report none."""


class Resume(Struct, frozen=True, tag_field="verb", tag="resume"):
    """End a pause, whoever began it."""


class EventsFind(Struct, frozen=True, tag_field="verb", tag="events-find"):
    """Give the records behind a cursor ("": all that are kept; "now": only those to come), of some kinds (none: all).

    `follow`: and those to come, until who asks goes away.
    """

    after: Text = ""
    kinds: tuple[Text, ...] = ()
    follow: bool = False


class OutboxesFind(Struct, frozen=True, tag_field="verb", tag="outboxes-find"):
    """Say how far webhooks, file and syslog are."""


class Drain(Struct, frozen=True, tag_field="verb", tag="drain"):
    """Move the queue to another node; who asks and goes away ends it."""

    host: Text
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class DrainCancel(Struct, frozen=True, tag_field="verb", tag="drain-cancel"):
    """End a drain under way, or take mail again after one."""


class BackUp(Struct, frozen=True, tag_field="verb", tag="backup"):
    """Copy the queue into a directory (an absolute path) that is empty or does not exist."""

    directory: Annotated[str, msgspec.Meta(pattern="^/", max_length=4096)]  # PATH_MAX


class PlanAddress(Struct, frozen=True, tag_field="verb", tag="plan-address"):
    """Explain what would happen to a message for an address now; `probe`: and connect to its hosts, without MAIL.

    `sender`: a reverse-path, "user:NAME", or "" for any that no route asks for.
    """

    address: Text
    probe: bool = False
    sender: Text = ""


class Reload(Struct, frozen=True, tag_field="verb", tag="reload"):
    """Read the configuration file anew and take it over, whole or not at all."""


class ConfigTexts(Struct, frozen=True):
    """What follows a ConfigDiff: the text to be compared and its name, and what with (None: what is in force)."""

    text: str
    name: str
    old_text: str | None = None
    old_name: str = ""


class ConfigDiff(Struct, frozen=True, tag_field="verb", tag="config-diff"):
    """Say what a configuration would change; `octets` of ConfigTexts as JSON follow once the daemon says go."""

    octets: Annotated[int, msgspec.Meta(ge=0, le=32 << 20)]


Request = (
    Ping
    | Reload
    | ConfigDiff
    | Send
    | QueueFind
    | QueueChange
    | QueueSummary
    | QueueCheck
    | Why
    | Watch
    | Suspend
    | EndSuspension
    | SuspensionsFind
    | HostsFind
    | HostsReset
    | PlanAddress
    | Pause
    | Resume
    | EventsFind
    | OutboxesFind
    | BackUp
    | Drain
    | DrainCancel
)


class Pong(Struct, frozen=True, tag_field="what", tag="pong"):
    """I am. `refusal`: why no new mail is taken now; `standstill`: why nothing can be delivered; or ""."""

    pid: int
    version: str
    listen: tuple[tuple[str, int], ...]
    messages: int
    recipients: int
    paused: bool = False
    audit: AuditFigures | None = None
    refusal: str = ""
    standstill: str = ""


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


class Summarised(Struct, frozen=True, tag_field="what", tag="summary"):
    """The queue in figures."""

    summary: Summary


class StoryTold(Struct, frozen=True, tag_field="what", tag="story"):
    """One story; more may follow."""

    story: Story


class SuspensionFound(Struct, frozen=True, tag_field="what", tag="suspension"):
    """A suspension: one that is, that begins now, or that ends now."""

    suspension: Suspension


class Watched(Struct, frozen=True, tag_field="what", tag="watched"):
    """`figures`: how much is under way at `at` (wall seconds), by name; `counts`: what was done, which only rises."""

    at: float
    figures: dict[str, float]
    counts: dict[str, float]


class DrainMoving(Struct, frozen=True, tag_field="what", tag="moving"):
    """How far a drain is."""

    moving: Moving


class DrainStaying(Struct, frozen=True, tag_field="what", tag="staying"):
    """A message, or part of one, that a drain leaves here; more may follow."""

    staying: Staying


class DrainEnded(Struct, frozen=True, tag_field="what", tag="drain-ended"):
    """What became of a drain."""

    end: DrainEnd


class DrainCancelled(Struct, frozen=True, tag_field="what", tag="drain-cancelled"):
    """Mail is taken, whatever it was before."""

    was_drained: bool


class Violation(Struct, frozen=True, tag_field="what", tag="violation"):
    """One recipient that violates the progress invariant; more may follow."""

    finding: Finding


class Checked(Struct, frozen=True, tag_field="what", tag="checked"):
    """All was looked at: so many messages and unfinished recipients; and what the auditor has seen since the start."""

    figures: AuditFigures
    messages: int
    recipients: int


class HostFound(Struct, frozen=True, tag_field="what", tag="host"):
    """One host that matches, as it is or, for a reset, as it was; more follow."""

    host: HostReport


class PauseChanged(Struct, frozen=True, tag_field="what", tag="pause-changed"):
    """It is paused now, or not any more, as was asked; how much is in the queue."""

    was_paused: bool
    messages: int
    recipients: int


class BackedUp(Struct, frozen=True, tag_field="what", tag="backed-up"):
    """The copy is whole and durable."""

    backup: Backup


class EventsFound(Struct, frozen=True, tag_field="what", tag="events"):
    """Records in order, each as docs/events.md has it; more follow. `cursor`: how far it was looked."""

    events: tuple[msgspec.Raw, ...]
    cursor: str


class OutboxFound(Struct, frozen=True, tag_field="what", tag="outbox"):
    """How far one outbox is; more follow."""

    outbox: OutboxReport


class Working(Struct, frozen=True, tag_field="what", tag="working"):
    """Still at it; said from time to time, so that a command can tell long work from a daemon that hangs."""


class Explained(Struct, frozen=True, tag_field="what", tag="explained"):
    """What would happen to a message."""

    explanation: Explanation


class Reloaded(Struct, frozen=True, tag_field="what", tag="reloaded"):
    """The file ("": there is none) is in force, and so much of it is new."""

    file: str
    changes: tuple[Change, ...]


class ConfigDiffers(Struct, frozen=True, tag_field="what", tag="config-differs"):
    """What a configuration would change; `effects`: None if it would change nothing."""

    changes: tuple[Change, ...]
    effects: Effects | None = None


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


Answer = (
    Pong
    | Reloaded
    | ConfigDiffers
    | Go
    | Filed
    | Found
    | ChangedSome
    | Summarised
    | StoryTold
    | SuspensionFound
    | Watched
    | HostFound
    | Violation
    | Checked
    | Working
    | Explained
    | Done
    | Refused
    | Failed
    | PauseChanged
    | EventsFound
    | OutboxFound
    | BackedUp
    | DrainMoving
    | DrainStaying
    | DrainEnded
    | DrainCancelled
)

_encoder = msgspec.json.Encoder()
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def to_line(said: Request | Answer) -> bytes:
    """Encode as one line with its newline; JSON escapes every newline within."""
    return _encoder.encode(said) + b"\n"
