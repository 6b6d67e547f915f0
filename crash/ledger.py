# SPDX-License-Identifier: MIT
"""Compares what was acknowledged with what arrived: the load's ledger with the sink's log. Starts and kills nothing."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

FAILED_KINDS = ("no",)  # of recipients, that end in a report
OPEN_KINDS = ("never",)  # of recipients, that end only when they expire


class Promise(Struct, frozen=True):
    """One acknowledged message."""

    token: str
    sender: str
    recipients: tuple[str, ...]
    octets: int
    sha256: str


class Comparison(Struct, frozen=True, kw_only=True):
    """What became of the promises. Addresses, or tokens, are listed; all but `duplicates` must be empty.

    `lost`: acknowledged, and neither arrived nor, for those that fail, reported. `altered`: arrived otherwise than
    sent. `foreign`: arrived at an address that was never sent to, or of a message that never was sent whole.
    `doubled_reports`: more than one report of failure for a recipient. `duplicates`: how often more than once each
    recipient got a message, and each sender the very same report, in all; `doubled`: which recipients.
    """

    acknowledged: int
    recipients: int
    arrived: int
    reports: int
    lost: tuple[str, ...]
    altered: tuple[str, ...]
    foreign: tuple[str, ...]
    doubled_reports: tuple[str, ...]
    duplicates: int
    doubled: tuple[str, ...]

    @property
    def failures(self) -> int:
        """Count what must never happen; duplicates are judged by who knows how many crashes there were."""
        return len(self.lost) + len(self.altered) + len(self.foreign) + len(self.doubled_reports)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines; a last line without its end is not there yet."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def promises(ledger: Iterable[dict[str, Any]]) -> dict[str, Promise]:
    """Give what was acknowledged, by token."""
    return {
        line["token"]: Promise(line["token"], line["sender"], tuple(line["recipients"]), line["octets"], line["sha256"])
        for line in ledger
        if line["event"] == "acknowledged"
    }


def compare(ledger: list[dict[str, Any]], log: list[dict[str, Any]]) -> Comparison:
    """Compare the two books."""
    made = promises(ledger)
    sent = {line["token"] for line in ledger}
    arrived: Counter[str] = Counter()
    reported: dict[str, Counter[str]] = {}  # address -> Message-IDs of reports
    altered: list[str] = []
    foreign: list[str] = []
    for line in log:
        if "report" in line:
            for address in line["report"]:
                reported.setdefault(address, Counter())[line["id"]] += 1
            continue
        token = line["token"]
        foreign += [each for each in line["to"] if token not in sent or token_of(each) != token]
        promise = made.get(token)
        if promise is not None and (line["sha256"], line["octets"]) != (promise.sha256, promise.octets):
            altered.append(token)
        arrived.update(line["to"])
    lost = [
        address
        for promise in made.values()
        for address in promise.recipients
        if kind_of(address) not in OPEN_KINDS
        and not (address in reported if kind_of(address) in FAILED_KINDS else arrived[address] or address in reported)
    ]
    foreign += [address for address in reported if token_of(address) not in sent]
    doubled = [address for address, n in arrived.items() if n > 1]
    return Comparison(
        acknowledged=len(made),
        recipients=sum(len(promise.recipients) for promise in made.values()),
        arrived=arrived.total(),
        reports=sum(len(ids) for ids in reported.values()),
        lost=tuple(lost),
        altered=tuple(altered),
        foreign=tuple(foreign),
        doubled_reports=tuple(address for address, ids in reported.items() if len(ids) > 1),
        duplicates=sum(n - 1 for n in arrived.values()) + _repeated(reported),
        doubled=tuple(doubled),
    )


def _repeated(reported: dict[str, Counter[str]]) -> int:
    """Count the reports that arrived again: the same message, which is the usual window, not another one."""
    return sum(n - 1 for ids in reported.values() for n in ids.values())


def kind_of(address: str) -> str:
    """Give the kind of a recipient: ok, later, no, never, cut."""
    return address.partition(".")[0]


def token_of(address: str) -> str:
    """Give the token in KIND.TOKEN.N@crash.test; "" if it has none."""
    parts = address.partition("@")[0].split(".")
    return parts[1] if len(parts) == 3 else ""
