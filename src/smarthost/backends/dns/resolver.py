# SPDX-License-Identifier: MIT
"""The Resolver: cache, shared questions, several servers, bounded time. Failures are values; it never raises for them.

Positive and negative answers are kept by TTL within bounds (RFC 2308), failures for seconds (RFC 9520); when no server
answers, an answer past its TTL is given once more and marked stale (RFC 8767). Nothing survives a restart.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from msgspec import Struct
from msgspec.structs import replace

from smarthost.backends.dns.codec import decode_answer, encode_question
from smarthost.backends.dns.transport import Server, Transport
from smarthost.ports import Answer, AnswerStatus, Clock

ANSWERS_KEPT = 20_000  # under 1 KiB each
SHORTEST_S = 5  # a TTL of 0 must not make a thousand domains at one host ask a thousand times
LONGEST_S = 3600
LONGEST_NEGATIVE_S = 300
FAILURE_S = 5  # RFC 9520 3.2: at least a second, at most five minutes
STALE_S = 86_400  # RFC 8767 5 suggests one to three days
STALE_TTL_S = 30  # RFC 8767 4
UNDER_WAY = 200  # questions on the network at once: above that a resolver on the same box drops packets


class Patience(Struct, frozen=True, gc=False):
    """How long servers are waited for: `try_s` each, `rounds` over all of them, `total_s` in all."""

    try_s: float = 3.0
    rounds: int = 2
    total_s: float = 15.0


class DnsResolver:
    """Implements ports.Resolver over recursive servers (address text, port), asked in the order of their last success.

    `trust_ad`: believe these servers when they say that an answer is validated; by default only if all are on loopback.
    """

    def __init__(
        self, clock: Clock, servers: Sequence[Server], patience: Patience | None = None, trust_ad: bool | None = None
    ) -> None:
        assert servers, "a resolver needs a server"
        self._clock = clock
        self._servers = list(servers)
        self._patience = patience if patience is not None else Patience()
        self._trust_ad = all(_is_loopback(host) for host, _ in servers) if trust_ad is None else trust_ad
        self._transport = Transport()
        self._kept: dict[tuple[str, str], _Kept] = {}  # longest unused first
        self._under_way: dict[tuple[str, str], asyncio.Event] = {}
        self._places = asyncio.Semaphore(UNDER_WAY)

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        key = (name, rdtype)
        while True:
            kept = self._kept.get(key)
            if kept is not None and kept.until > (now := self._clock.monotonic()):
                del self._kept[key]
                self._kept[key] = kept
                return replace(kept.answer, ttl_s=int(kept.until - now))
            under_way = self._under_way.get(key)
            if under_way is None:
                return await self._ask_anew(key)
            await under_way.wait()  # its answer is kept then; or who asked gave up, and it is our turn

    def close(self) -> None:
        """Close the sockets; questions under way end as failures."""
        self._transport.close()

    async def _ask_anew(self, key: tuple[str, str]) -> Answer:
        self._under_way[key] = asked = asyncio.Event()
        try:
            answer = await self._ask_servers(*key)
            return self._keep(key, answer)
        finally:
            del self._under_way[key]
            asked.set()

    def _keep(self, key: tuple[str, str], answer: Answer) -> Answer:
        """Remember an answer, or give the old one once more when nobody answers."""
        now = self._clock.monotonic()
        old = self._kept.pop(key, None)
        if answer.status is AnswerStatus.TIMEOUT and old is not None and now < old.stale_until:
            answer = replace(old.answer, stale=True, ttl_s=STALE_TTL_S, detail=answer.detail)
            kept = _Kept(answer, now + STALE_TTL_S, old.stale_until)
        else:
            stands_s = _stands_s(answer)
            is_answer = answer.status not in (AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT)
            kept = _Kept(answer, now + stands_s, now + stands_s + STALE_S if is_answer else 0.0)
            answer = replace(answer, ttl_s=stands_s)
        if len(self._kept) >= ANSWERS_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = kept
        return answer

    # -- asking servers ------------------------------------------------------------------------------------------------

    async def _ask_servers(self, name: str, rdtype: str) -> Answer:
        try:
            question = encode_question(name, rdtype)
        except ValueError as error:
            return Answer(name, rdtype, AnswerStatus.NXDOMAIN, canonical=name, detail=str(error))
        walk = _Walk(name, rdtype, question)
        try:
            async with asyncio.timeout(self._patience.total_s), self._places:
                return await self._walk(walk)
        except TimeoutError:
            walk.failed(f"no answer within {self._patience.total_s:g} s in all")
            return walk.failure()

    async def _walk(self, walk: "_Walk") -> Answer:
        for _ in range(self._patience.rounds):
            for server in tuple(self._servers):
                if server in walk.refusing:
                    continue
                answer = await self._try(server, walk)
                if answer is not None:
                    if server != self._servers[0]:  # a dead first server is waited for once, not by every question
                        self._servers.remove(server)
                        self._servers.insert(0, server)
                    return answer
        return walk.failure()

    async def _try(self, server: Server, walk: "_Walk") -> Answer | None:
        """Ask one server once; None when that did not settle the question."""
        where = f"{server[0]}:{server[1]}"
        try:
            async with asyncio.timeout(self._patience.try_s):
                message = await self._transport.exchange(server, walk.question)
            answer = decode_answer(walk.name, walk.rdtype, message, trust_ad=self._trust_ad)
        except TimeoutError:
            walk.failed(f"no answer from {where} within {self._patience.try_s:g} s")
            return None
        except (OSError, ValueError) as error:
            walk.failed(f"{where}: {error}")
            return None
        if answer.status is AnswerStatus.SERVFAIL:
            walk.refused(server, replace(answer, detail=f"{answer.detail} from {where}"))
            return None
        return answer


class _Walk:
    """One question's way along the servers."""

    def __init__(self, name: str, rdtype: str, question: bytes) -> None:
        self.name = name
        self.rdtype = rdtype
        self.question = question
        self.refusing: set[Server] = set()  # they did answer: asking them again would change nothing
        self._refusal: Answer | None = None
        self._silences: list[str] = []

    def failed(self, how: str) -> None:
        if how not in self._silences:
            self._silences.append(how)

    def refused(self, server: Server, answer: Answer) -> None:
        self.refusing.add(server)
        self._refusal = answer

    def failure(self) -> Answer:
        """What to say when no server settled it: one that answered with a failure counts more than silence."""
        if self._refusal is not None:
            return self._refusal
        detail = "; ".join(self._silences)[:300]
        return Answer(self.name, self.rdtype, AnswerStatus.TIMEOUT, canonical=self.name, detail=detail)


class _Kept(Struct, frozen=True, gc=False):
    """An answer, until when it is good, and until when it is better than nothing (monotonic seconds)."""

    answer: Answer
    until: float
    stale_until: float


def _stands_s(answer: Answer) -> int:
    if answer.status is AnswerStatus.FOUND:
        return max(SHORTEST_S, min(answer.ttl_s, LONGEST_S))
    if answer.status in (AnswerStatus.NODATA, AnswerStatus.NXDOMAIN):
        return max(SHORTEST_S, min(answer.ttl_s, LONGEST_NEGATIVE_S))
    return FAILURE_S


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
