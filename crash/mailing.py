# SPDX-License-Identifier: MIT
"""One life's mail: sent in sessions of its own, written down in its ledger, compared with what arrived of it.

The sink is shared with other lives; tokens begin with the life's name. Starts and kills nothing.
"""

import contextlib
import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.children import Scratch

from crash.ledger import Comparison, compare, kind_of, read_lines
from crash.load import Ledger, Refused, Session, make_content
from crash.relay import Books

# A delivery that the sink wrote down so long before a crash was settled before it; a busy machine is slow.
WINDOW_S = 3.0


class Mailing:
    """`wrong`: what must not be, in sentences; `crashes`: when (wall clock) what was under way may come twice."""

    def __init__(self, scratch: Scratch, books: Books, name: str, seed: int) -> None:
        self.name = name
        self.scratch = scratch
        self.home = scratch.directory(f"life-{name}")
        self.ledger = Ledger(str(self.home / "ledger.jsonl"))
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.crashes: list[float] = []
        self._chance = random.Random(seed)
        self._log = books.log_file
        self._skipped = self._log.stat().st_size if self._log.exists() else 0
        self._number = 0

    def send_to(self, port: int, kinds: tuple[str, ...], octets: int) -> str:
        """Send one message in a session of its own; give the code of the reply, "" if the connection died first."""
        token = f"{self.name}{self._number:03d}"
        self._number += 1
        content = make_content(token, octets, self._chance)
        recipients = [f"{kind}.{token}.{n}@crash.test" for n, kind in enumerate(kinds)]
        sender = f"sender.{token}@crash.test"
        reply = ""
        try:
            session = Session("127.0.0.1", port)
            try:
                reply = session.send(token, sender, recipients, content, self.ledger)
            finally:
                session.close()
        except Refused as refused:
            reply = str(refused)
            self.ledger.write(token, "refused", reply=reply)
        except OSError as error:
            self.ledger.write(token, "unknown", why=str(error))
        else:
            facts = {"octets": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            self.ledger.write(token, "acknowledged", reply=reply, sender=sender, recipients=recipients, **facts)
        self.codes[reply[:9]] += 1
        if reply.startswith("5"):
            self.wrong.append(f"a local failure was answered with {reply}")
        return reply

    def promised(self, kind: str) -> list[str]:
        """Give the acknowledged recipients of a kind."""
        lines = read_lines(self.home / "ledger.jsonl")
        return [each for line in lines for each in line.get("recipients", ()) if kind_of(each) == kind]

    @staticmethod
    def await_(is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it is so, or time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.03)
        return True

    def arrived(self) -> list[dict[str, Any]]:
        """Give what arrived at the sink in this life."""
        with self._log.open("rb") as file:
            file.seek(self._skipped)
            return [json.loads(line) for line in file.read().split(b"\n")[:-1]]

    def compare(self) -> Comparison:
        """Compare the books."""
        return compare(read_lines(self.home / "ledger.jsonl"), self.arrived())

    def judge(self, found: Comparison) -> None:
        """Say what the books show that must not be."""
        for what, which in (
            ("lost", found.lost), ("altered", found.altered), ("foreign", found.foreign),
            ("reported twice", found.doubled_reports),
        ):  # fmt: skip
            if which:
                self.wrong.append(f"{what}: {', '.join(which)}")
        came: dict[str, list[float]] = {}
        for line in self.arrived():
            for address in line["to"]:
                came.setdefault(address, []).append(line["at"])
        for address, times in came.items():
            if len(times) - 1 > len(self.crashes):
                self.wrong.append(f"{address} came {len(times)} times for {len(self.crashes)} crashes")
            elif len(times) > 1 and not any(-1.0 < crash - times[0] < WINDOW_S for crash in self.crashes):
                self.wrong.append(f"{address} came again although its delivery was {WINDOW_S:.0f} s old at the crash")

    def end(self) -> None:
        """Kill the system. Raises: AssertionError: it was never started."""

    def close(self) -> None:
        """End everything and forget its files, unless something was wrong."""
        with contextlib.suppress(AssertionError):
            self.end()
        self.ledger.close()
        if not self.wrong:
            shutil.rmtree(self.home, ignore_errors=True)
