# SPDX-License-Identifier: MIT
"""A demo that went well, as evidence, without a relay: tests spoil one thing and look what the judge says."""

from collections.abc import Callable

from msgspec.structs import replace

from smarthost.mail.record import Kind, Record
from smarthost.ops.demo import scenery
from smarthost.ops.demo.judge import Evidence, Outcome, Row, judge
from smarthost.ops.demo.ledger import Ledger
from smarthost.ops.demo.scenery import HOME, Letter
from smarthost.testing.peers import TakenMessage

RECEIVED = b"Received: from workstation.home.example ([127.0.0.1])\r\n by relay.example with ESMTP id x;\r\n now\r\n"
DEAD = "dead.deadmx.example [127.0.0.4]"


class Elapsed:
    """Seconds since the beginning, as a test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class World:
    """What happened, still open to change; `change_record` sees each record before the ledger does."""

    def __init__(self, change_record: Callable[[Record], Record | None] = lambda record: record) -> None:
        self.elapsed = Elapsed()
        self.ledger = Ledger(self.elapsed)
        self.letters = scenery.write_letters()
        self.answers = {letter.number: "250 2.0.0 Ok: queued" for letter in self.letters}
        self.taken: dict[str, list[TakenMessage]] = {}
        self._change_record = change_record
        self._dead_hosts_tried = 0
        for letter in self.letters:
            self._deliver(letter)

    def letter(self, domain: str) -> Letter:
        """Give the first letter to a domain."""
        return next(letter for letter in self.letters if letter.destination.domain == domain)

    def arrived(self, letter: Letter) -> int:
        """Give the index of a letter at its host."""
        taken = self.taken[letter.destination.domain]
        return next(index for index, message in enumerate(taken) if message.recipients == letter.recipients[:1])

    def judge(self, *troubles: str) -> Outcome:
        return judge(Evidence(self.letters, self.answers, self.ledger, self.taken), troubles, 3.5)

    def problems(self) -> list[str]:
        return [f"{row.kind}: {problem}" for row in self.judge().rows for problem in row.problems]

    def record(self, letter_id: str, recipient: str, kind: Kind, **facts: object) -> None:
        record = replace(Record(1, kind, 1000.0 + self.elapsed.seconds, letter_id, recipient), **facts)
        changed = self._change_record(record)
        if changed is not None:
            self.ledger.record(changed)

    def _deliver(self, letter: Letter) -> None:
        destination, id = letter.destination, f"id{letter.number}"
        self.elapsed.seconds = letter.number / 1000
        for recipient in letter.recipients:
            self.record(id, recipient, Kind.ACCEPTED)
        for attempt in range(1, destination.attempts):
            self.elapsed.seconds += 1.0
            next_at = 1000.0 + self.elapsed.seconds + attempt
            facts = {"attempt": attempt, "reply": "450 4.7.1 Greylisted", "host": "mx.greylist.example"}
            facts["next_attempt_at"] = next_at
            self.record(id, letter.recipients[0], Kind.DEFERRED, **facts)
        self.elapsed.seconds += 0.002
        if destination.takes_mail:
            host = f"mx.{destination.domain}"
            relayed = {"attempt": destination.attempts, "host": host, "walk": self._walk(letter), "status": "2.0.0"}
            self.record(id, letter.recipients[0], Kind.RELAYED, **relayed)
            message = TakenMessage(letter.reverse_path, letter.recipients[:1], RECEIVED + letter.content)
            self.taken.setdefault(destination.domain, []).append(message)
        for recipient in letter.recipients[1:] if destination.takes_mail else letter.recipients:
            self._bounce(letter, recipient)

    def _walk(self, letter: Letter) -> tuple[str, ...]:
        if not letter.destination.dead_host:
            return ()
        self._dead_hosts_tried += 1
        if self._dead_hosts_tried == 1:
            return (f"{DEAD}: {DEAD}, at connect: connection refused",)
        return (f"{DEAD}: not dialled, connect failed once: connection refused",)

    def _bounce(self, letter: Letter, recipient: str) -> None:
        id, destination = f"id{letter.number}", letter.destination
        host, reply = ("mx.picky.example", "550 5.1.1 No such user") if destination.takes_mail else ("", "")
        facts = {"attempt": 1, "status": destination.status, "host": host, "reply": reply, "why": "because"}
        self.record(id, recipient, Kind.BOUNCED, reverse_path=letter.reverse_path, **facts)
        self.record(id, recipient, Kind.REPORTED)
        self.record(f"report-of-{id}", letter.reverse_path, Kind.RELAYED, attempt=1, host="mx.home.example")
        report = TakenMessage("", (letter.reverse_path,), write_report(letter, recipient))
        self.taken.setdefault(HOME, []).append(report)


def write_report(letter: Letter, recipient: str) -> bytes:
    """Write a report as small as RFC 3464 allows."""
    lines = (
        "From: Mail Delivery System <MAILER-DAEMON@relay.example>",
        f"To: <{letter.reverse_path}>",
        "Subject: Your message could not be delivered",
        f"References: {letter.message_id}",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="cut"',
        "",
        "--cut",
        "Content-Type: text/plain",
        "",
        f"<{recipient}> takes no mail.",
        "--cut",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; relay.example",
        "",
        f"Final-Recipient: rfc822; {recipient}",
        "Action: failed",
        f"Status: {letter.destination.status}",
        "",
        "--cut--",
        "",
    )
    return "\r\n".join(lines).encode()


def row(outcome: Outcome, kind: str) -> Row:
    return next(row for row in outcome.rows if row.kind == kind)
