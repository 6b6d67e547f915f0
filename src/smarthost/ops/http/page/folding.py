# SPDX-License-Identifier: MIT
"""What happened to many at one moment, as one: fifteen recipients that somebody cancelled are one line. Pure."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from smarthost.mail.record import Record
from smarthost.ops.http.lately import Trouble

MOMENT_S = 5.0  # what one command did, at most: a large one takes some seconds


class Folded(Struct, frozen=True):
    """Records that say the same of several recipients; `first` stands for all."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]


class FoldedTrouble(Struct, frozen=True):
    """A trouble, and how often it was the same one; `last` is the newest."""

    last: Trouble
    times: int


def fold(records: Sequence[Record]) -> list[Folded]:
    """Fold neighbours of one moment that have the same kind, author and reason, each of a recipient."""
    groups: list[list[Record]] = []
    for record in records:
        before = groups[-1][0] if groups else None
        if before is not None and _says(record) and _says(record) == _says(before) and _is_soon(record, before):
            groups[-1].append(record)
        else:
            groups.append([record])
    return [Folded(tuple(group)) for group in groups]


def _says(record: Record) -> tuple[object, ...]:
    """Give what must be the same; () for what stands by itself: of a host, an acceptance, a delivery."""
    if not record.recipient or not (record.user or record.why):
        return ()
    return record.kind, record.user, record.why, record.reply, record.host


def _is_soon(one: Record, other: Record) -> bool:
    return abs(one.at - other.at) < MOMENT_S


def fold_troubles(newest_first: Iterable[Trouble], most: int) -> list[FoldedTrouble]:
    """Give the newest troubles, each name once with how often: a host that breaks again and again is one."""
    found: dict[tuple[str, str], list[Trouble]] = {}
    for trouble in newest_first:
        found.setdefault((trouble.what, trouble.recipient or trouble.why), []).append(trouble)
    return [FoldedTrouble(same[0], len(same)) for same in list(found.values())[:most]]
