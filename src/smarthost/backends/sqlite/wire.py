# SPDX-License-Identifier: MIT
"""What the store and its child say to each other: frames, questions, answers.

A frame is its length (4 octets) and that many octets. The child imports this module, so it knows only msgspec and the
standard library. Rows travel as arrays: field order is the format, and both ends are always of the same release.
"""

import socket
import struct
from typing import NamedTuple

import msgspec
from msgspec import Struct

from smarthost.backends.boot import LENGTH
from smarthost.mail.backup import Backup

FRAME_OCTETS = 256 * 1024 * 1024  # more is a bug, not a frame


class BatchHead(NamedTuple):
    """The start of a batch's frame; after it the parts follow, with the lengths given."""

    number: int
    day: int  # YYYYMMDD: which table its records go to
    highest: int  # the highest number it mentions
    messages: int
    recipients: int
    octets: int
    settles: int
    debts: int
    parameters: int
    extras: int
    acceptances: int
    abouts: int


BATCH_HEAD = struct.Struct("<QQQIIIIIIIII")

NOTHING = b"{}"  # of what most batches do not have
NO_ROWS = b"[]"
# Released in one transaction, in which no mail is committed: 300,000 at once took 6 to 18 s. While 200,000 went in
# portions of 500, a commit took 50 to 90 ms, in portions of 2,000 200 ms (a machine busy with other work).
RELEASE_ROWS = 500

# A batch: committed; no space; a row is wrong; the connection cannot go on; nor the database as it is.
OK, FULL, FAULTY, FATAL, DAMAGED = 0, 1, 2, 3, 4


class Hello(Struct, array_like=True):
    """The child's first word: why it cannot serve, or "" and the highest number ever committed.

    With `news` for an operator it is not the greeting yet: that follows, perhaps much later. `salvaged`: the database
    was damaged, and what came of that.
    """

    trouble: str
    last_number: int
    spare_octets: int = 0
    news: str = ""
    salvaged: str = ""


class Outcome(Struct, array_like=True):
    """What became of a batch; `gone` are the messages (key, tag) whose content files have no row any more.

    `spare_octets`: room within the database's file, which never shrinks. `released`: recipients that await no host now.
    """

    number: int
    code: int
    text: str
    gone: list[tuple[int, int]]
    spare_octets: int = 0
    released: int = 0


Leased = list[tuple[int, int]]  # (key, n)


class AskDue(Struct, array_like=True, tag="due"):
    now: float
    n: int
    leased: list[tuple[int, int, str]]


class AskLease(Struct, array_like=True, tag="lease"):
    domains: list[str]
    now: float
    n: int
    leased: Leased


class AskSweep(Struct, array_like=True, tag="sweep"):
    received_before: float
    n: int
    leased: Leased


class AskDelayed(Struct, array_like=True, tag="delayed"):
    """What comes behind (at, key) in the order of received_at and key, of at most `n` messages."""

    received_before: float
    n: int
    at: float
    key: int


class AskUntold(Struct, array_like=True, tag="untold"):
    """What is delayed and untold still of these messages."""

    keys: list[int]


class AskAll(Struct, array_like=True, tag="all"):
    """What is unfinished of `n` messages behind a key, held or not, one row for each; of what owes a report nothing."""

    after: int
    n: int
    leased: Leased


class AskHeldOver(Struct, array_like=True, tag="held-over"):
    """What is held until `now` or earlier, of `n` messages, one row for each; of what owes a report nothing."""

    now: float
    n: int
    leased: Leased


class AskContent(Struct, array_like=True, tag="content"):
    """`is_fresh`: it was made durable a moment ago, and a file need not be read to be checked."""

    key: int
    tag: int
    is_fresh: bool = False


class AskFind(Struct, array_like=True, tag="find"):
    """`key` and `tag` are -1 for any; texts are "" for any, `received_before` 0.0, `domains` []."""

    key: int
    tag: int
    reverse_path: str
    recipient: str
    domain: str
    after_key: int
    after_n: int
    n: int
    sender: str = ""
    sender_domain: str = ""
    reply: str = ""
    state: str = ""
    received_before: float = 0.0
    domains: list[str] = []


class AskChangeable(AskFind, array_like=True, tag="changeable"):
    """As AskFind, but for unfinished recipients behind (after_key, after_n)."""


class AskDebts(Struct, array_like=True, tag="debts"):
    exclude: list[int]


class AskDebt(Struct, array_like=True, tag="debt"):
    key: int


class AskRecords(Struct, array_like=True, tag="records"):
    after: int
    n: int


class AskHistory(Struct, array_like=True, tag="history"):
    """The newest `n` records of a message."""

    key: int
    n: int


class AskAccepted(Struct, array_like=True, tag="accepted"):
    """Acceptances that may be about this text (batch.about); who asks looks at them himself."""

    about: int
    n: int


class AskRemembered(Struct, array_like=True, tag="remembered"):
    """Are there acceptances of all that is queued?"""


class AskTally(Struct, array_like=True, tag="tally"):
    """Count the unfinished recipients of the next messages behind a key."""

    after: int
    now: float


class AskCount(Struct, array_like=True, tag="count"):
    pass


class AskAwaiting(Struct, array_like=True, tag="awaiting"):
    now: float
    n: int


class AskNotes(Struct, array_like=True, tag="notes"):
    prefix: str


class AskRecall(Struct, array_like=True, tag="recall"):
    key: int
    n: int


class AskSuspects(Struct, array_like=True, tag="suspects"):
    """Of the next `rows` recipients behind (key, n), those that queue.audit.is_suspect means."""

    key: int
    n: int
    rows: int
    due_before: float
    due_after: float
    received_before: float
    owed_before: float


class StartBackup(Struct, array_like=True, tag="start-backup"):
    """Begin to copy everything into a directory; `at` and `version` are told in the copy."""

    directory: str
    at: float
    version: str


class AskBackup(Struct, array_like=True, tag="backup"):
    """How far is the backup?"""


class StopBackup(Struct, array_like=True, tag="stop-backup"):
    """Nobody wants the backup any more."""


BackupQuestion = StartBackup | AskBackup | StopBackup

Question = (
    AskDue
    | AskLease
    | AskSweep
    | AskDelayed
    | AskUntold
    | AskAll
    | AskHeldOver
    | AskContent
    | AskFind
    | AskChangeable
    | AskDebts
    | AskDebt
    | AskRecords
    | AskHistory
    | AskAccepted
    | AskRemembered
    | AskTally
    | AskCount
    | AskAwaiting
    | AskNotes
    | AskRecall
    | AskSuspects
    | StartBackup
    | AskBackup
    | StopBackup
)


class Keep(Struct, array_like=True, tag="keep"):
    """Make a draft file durable under its final name."""

    draft: str
    name: str


class Drop(Struct, array_like=True, tag="drop"):
    """Forget content files."""

    names: list[str]


FileOrder = Keep | Drop


class FileOutcome(Struct, array_like=True):
    """What became of an order: 0, or an errno with its text; of a draft, the CRC-32 of its octets."""

    errno: int
    text: str
    checksum: int = 0


class BackupState(Struct, array_like=True):
    """How far the last backup is: pages done and all; when it is over, the backup or why there is none."""

    is_running: bool
    trouble: str
    done: int
    total: int
    backup: Backup | None


class DamagedRow(Struct, array_like=True):
    """A recipient that must not be sent; `tag` is -1 when its message is gone."""

    key: int
    tag: int
    n: int
    address: str
    domain: str
    why: str


class DueRows(Struct, array_like=True):
    domains: list[tuple[str, float]]
    next_at: float | None


class LeasedRow(NamedTuple):
    """A recipient to lease."""

    n: int
    address: str
    domain: str
    attempts: int
    last_reply: str
    status: str
    notify: int
    orcpt: str
    delay_told: int
    due: float
    awaits_host: int
    why: str
    host: str
    is_held: int = 0


class LeaseRow(Struct, array_like=True):
    """A message with the recipients to lease."""

    key: int
    tag: int
    received_at: float
    reverse_path: str
    body: str
    smtputf8: int
    client: str
    sender: str
    octets: int
    prefix: bytes
    ret: str
    envid: str
    tls: str
    recipients: list[LeasedRow]


class LeaseRows(Struct, array_like=True):
    """`is_cut`: damaged entries stood in the way of others, which a second question finds."""

    messages: list[LeaseRow]
    is_cut: bool


class DelayedRows(Struct, array_like=True):
    """How far the scan came, and if that is all there is."""

    messages: list[LeaseRow]
    at: float
    key: int
    is_end: bool


class AllRows(Struct, array_like=True):
    """`last`: the key up to which the scan came, None: there are no more."""

    messages: list[LeaseRow]
    last: int | None


class RecipientRow(Struct, array_like=True):
    n: int
    address: str
    domain: str
    state: str
    due: float
    attempts: int
    last_reply: str
    status: str
    why: str
    host: str
    awaits_host: int


class SuspectRow(Struct, array_like=True):
    """`tag` and `received_at` are None when there is no such message."""

    key: int
    n: int
    tag: int | None
    address: str
    domain: str
    state: str
    due: float
    received_at: float | None
    owed_at: float | None


class SuspectRows(Struct, array_like=True):
    """How many rows were looked at, and the last of them if there are more."""

    suspects: list[SuspectRow]
    checked: int
    cursor: tuple[int, int] | None


class TallyRows(Struct, array_like=True):
    """By domain, sender, reason: recipients, due, held, oldest received_at, key and tag of it; where to go on."""

    domains: dict[str, tuple[int, int, int, float, int, int]]
    senders: dict[str, tuple[int, int, int, float, int, int]]
    reasons: dict[str, tuple[int, int, int, float, int, int]]
    last: int | None


class DebtorRow(RecipientRow, array_like=True):
    """A recipient of which a report is owed."""

    dsn: str
    notify: int
    orcpt: str
    delay_told: int


class MessageRow(Struct, array_like=True):
    key: int
    tag: int
    received_at: float
    reverse_path: str
    client: str
    sender: str
    octets: int
    recipients: list[RecipientRow]


class FoundRows(Struct, array_like=True):
    """Where the scan stopped: (key, n), or None at the end."""

    messages: list[MessageRow]
    cursor: tuple[int, int] | None


class ContentRow(Struct, array_like=True):
    """`body` is None when the content lives in a file."""

    octets: int
    body: bytes | None


class DebtRow(Struct, array_like=True):
    key: int
    tag: int
    received_at: float
    reverse_path: str
    smtputf8: int
    prefix: bytes
    octets: int
    ret: str
    envid: str
    tls: str
    header: bytes
    recipients: list[DebtorRow]


def frame(payload: bytes) -> bytes:
    """Give the payload as a frame."""
    return LENGTH.pack(len(payload)) + payload


def answer(value: object) -> bytes:
    """Give the frame of a good answer."""
    return frame(b"\0" + msgspec.msgpack.encode(value))


def refuse(text: str) -> bytes:
    """Give the frame that says why there is no answer."""
    return frame(b"\1" + text.encode())


def refuse_all(text: str) -> bytes:
    """Give the frame that says why there is no answer, nor any more: the database is damaged."""
    return frame(b"\2" + text.encode())


def report(rows: list[DamagedRow]) -> bytes:
    """Give the frame that answers nothing, but tells of what was found while the next answer was sought."""
    return frame(b"\3" + msgspec.msgpack.encode(rows))


def read_exactly(sock: socket.socket, length: int) -> memoryview | None:
    """Block until `length` octets are there; None: the other end is gone."""
    view = memoryview(bytearray(length))
    got = 0
    while got < length:
        try:
            count = sock.recv_into(view[got:])
        except ConnectionResetError:  # it was killed with something of ours unread
            return None
        if not count:
            return None
        got += count
    return view


def read_frame(sock: socket.socket) -> memoryview | None:
    """Block until a frame is there and give its payload; None: the other end is gone."""
    head = read_exactly(sock, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    assert length <= FRAME_OCTETS, "both ends speak the same frames"
    return read_exactly(sock, length)
