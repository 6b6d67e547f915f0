# SPDX-License-Identifier: MIT
"""What DNS said, kept by TTL within bounds (RFC 2308), failures for seconds (RFC 9520), and stale when nobody answers.

Bounded twice, by answers and by octets: a hundred long names in an answer must not cost what a hundred answers may.
What was not asked for lately goes first. Nothing is asked here, and nothing survives a restart.
"""

from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from smarthost.ports import Answer, AnswerStatus, MxRecord

ANSWERS_KEPT = 20_000  # half a KiB each, with such names as are usual
OCTETS_KEPT = 20 << 20  # about: 1 KiB for each
SHORTEST_S = 5  # a TTL of 0 must not make a thousand domains at one host ask a thousand times
LONGEST_S = 3600
LONGEST_NEGATIVE_S = 300
FAILURE_S = 5  # RFC 9520 3.2: at least a second, at most five minutes
STALE_S = 86_400  # RFC 8767 5 suggests one to three days
STALE_TTL_S = 30  # RFC 8767 4
_SETS_SHARED = 1_000  # sets of exchangers of which only one copy is kept: ten thousand domains at one provider
_OCTETS_SHARED = 2 << 20  # of such sets, which may be in no answer any more


class Cache:
    """Keeps answers; `now` is always the monotonic time."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, _Kept]] = {}  # by type, then by name: longest kept first
        self._shared: dict[tuple[MxRecord, ...], tuple[MxRecord, ...]] = {}
        self._shared_octets = 0
        self._octets = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def fresh(self, name: str, rdtype: str, now: float) -> Answer | None:
        """Give what is still good, with the TTL that is left."""
        try:
            kept = self._kept[rdtype][name]
        except KeyError:
            return None
        left_s = kept.until - now
        if left_s <= 0:
            return None
        kept.is_asked = True
        if left_s < kept.answer.ttl_s:  # once a second at most: a copy costs as much as all the rest
            kept.answer = replace(kept.answer, ttl_s=int(left_s))
        return kept.answer

    def keep(self, answer: Answer, now: float) -> Answer:
        """Keep an answer that DNS gave, or a failure, in place of an older one; give it with the TTL it is kept for."""
        stands_s = _stands_s(answer)
        mx = self._one_copy(answer.mx) if answer.mx else ()
        answer = replace(answer, mx=mx, ttl_s=stands_s)
        until = now + stands_s
        good = self._good(answer.name, answer.rdtype) if _is_failure(answer) else None
        self._put(_Kept(answer, until, until, good))
        return answer

    def stale(self, name: str, rdtype: str, why: str, now: float) -> Answer | None:
        """Give once more the last answer that was no failure, unless it is too old: nobody can confirm it, `why`."""
        kept = self._good(name, rdtype)
        if kept is None or now >= kept.past_at + STALE_S:
            return None
        if kept is not self._kept[rdtype][name]:  # a failure stands before it
            self._put(kept)
        detail = f"{_span(now - kept.past_at)} past its TTL: {why}"
        kept.answer = replace(kept.answer, stale=True, ttl_s=STALE_TTL_S, detail=detail)
        kept.until = now + STALE_TTL_S
        return kept.answer

    def doubt(self, now: float) -> None:
        """Let all that is kept be good only where nobody answers: these servers may see another world."""
        for names in self._kept.values():
            for kept in names.values():
                kept.until = min(kept.until, now)

    def _good(self, name: str, rdtype: str) -> "_Kept | None":
        """Give what was kept last that was no failure: a failure is kept in front of it."""
        kept = self._kept.get(rdtype, {}).get(name)
        return kept.good if kept is not None and _is_failure(kept.answer) else kept

    # -- bounds --------------------------------------------------------------------------------------------------------

    def _put(self, kept: "_Kept") -> None:
        answer = kept.answer
        names = self._kept.setdefault(answer.rdtype, {})
        old = names.pop(answer.name, None)
        self._octets += kept.octets - (old.octets if old is not None else 0)
        while len(self) >= ANSWERS_KEPT or (self._octets > OCTETS_KEPT and len(self)):
            self._forget_some()
        names[answer.name] = kept

    def _forget_some(self) -> None:
        """Forget the longest kept of the type that has most, but those asked for meanwhile get a second chance.

        A hundredth at a time: the first key of a dict whose front was deleted is slow to find.
        """
        names = max(self._kept.values(), key=len)
        for name in tuple(islice(names, max(1, ANSWERS_KEPT // 100))):
            kept = names.pop(name)
            if kept.is_asked:
                kept.is_asked = False
                names[name] = kept
            else:
                self._octets -= kept.octets

    def _one_copy(self, mx: tuple[MxRecord, ...]) -> tuple[MxRecord, ...]:
        shared = self._shared.get(mx)
        if shared is not None:
            return shared
        octets = _mx_octets(mx)
        if len(self._shared) >= _SETS_SHARED or self._shared_octets + octets > _OCTETS_SHARED:
            self._shared.clear()  # those in use stay shared among their users
            self._shared_octets = 0
        self._shared_octets += octets
        self._shared[mx] = mx
        return mx


class _Kept(Struct, gc=False):
    """An answer, until when it is given unasked, and since when it is past its TTL (the same, unless it is stale).

    `good`: for a failure, what was known before it.
    """

    answer: Answer
    until: float
    past_at: float
    good: "_Kept | None" = None
    is_asked: bool = False

    @property
    def octets(self) -> int:
        return _octets(self.answer) + (_octets(self.good.answer) if self.good is not None else 0)


def _octets(answer: Answer) -> int:
    """About what it takes to keep an answer; what `fresh` and `stale` change does not count."""
    texts = len(answer.name) + len(answer.canonical) + sum(map(len, answer.aliases))
    return 350 + texts + _mx_octets(answer.mx) + 70 * (len(answer.addresses) + len(answer.aliases))


def _mx_octets(mx: tuple[MxRecord, ...]) -> int:
    return sum([90 + len(record.exchange) for record in mx])


def _stands_s(answer: Answer) -> int:
    if _is_failure(answer):
        return FAILURE_S
    longest_s = LONGEST_S if answer.status is AnswerStatus.FOUND else LONGEST_NEGATIVE_S
    return max(SHORTEST_S, min(answer.ttl_s, longest_s))


def _is_failure(answer: Answer) -> bool:
    return answer.status in (AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
