# SPDX-License-Identifier: MIT
"""The Resolver: shared questions, several servers, bounded time. Failures are values; it never raises for them.

A server that cannot tell (silent, lame, garbage) is passed over for the next one; SERVFAIL is a word about the name.
Where no server said a word, an answer past its TTL is given once more and marked stale (RFC 8767).
"""

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from smarthost.backends.dns.cache import Cache
from smarthost.backends.dns.codec import Unable, decode_answer, encode_question
from smarthost.backends.dns.servers import Server, Servers, Source
from smarthost.backends.dns.transport import Transport
from smarthost.ports import Answer, AnswerStatus, Clock

UNDER_WAY = 200  # questions on the network at once: above that a resolver on the same box drops packets


class Patience(Struct, frozen=True, gc=False):
    """How long servers are waited for: `try_s` each, `rounds` over all of them, `total_s` in all."""

    try_s: float = 3.0
    rounds: int = 2
    total_s: float = 15.0

    def share_s(self, servers: int) -> float:
        """Give the time of one try, so short that every one of so many servers is tried within the whole."""
        return min(self.try_s, self.total_s / (servers + 1))


class DnsResolver:
    """Implements ports.Resolver over recursive servers (address text, port), asked in the order of their last success.

    `servers`: them, or a callable that gives them as they are now (SystemServers), asked again every few seconds.
    `trust_ad`: believe these servers when they say that an answer is validated; by default only if all are on loopback.
    """

    def __init__(
        self, clock: Clock, servers: Source, patience: Patience | None = None, trust_ad: bool | None = None
    ) -> None:
        self._clock = clock
        self._servers = Servers(clock, servers, trust_ad)
        self._patience = patience if patience is not None else Patience()
        self._cache = Cache()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        """Have what belongs to one event loop."""
        self._transport = Transport(self._clock.monotonic)
        self._under_way: dict[tuple[str, str], asyncio.Event] = {}
        self._places = asyncio.Semaphore(UNDER_WAY)

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        while True:
            now = self._clock.monotonic()
            if now >= self._servers.next_look:
                self._look()
            answer = self._cache.fresh(name, rdtype, now)
            if answer is not None:
                return answer
            if not self._is_at_home():
                detail = "this resolver serves another event loop"
                return Answer(name, rdtype, AnswerStatus.SERVFAIL, canonical=name, detail=detail)
            under_way = self._under_way.get((name, rdtype))
            if under_way is None:
                return await self._ask_anew(name, rdtype)
            await under_way.wait()  # its answer is kept then; or who asked gave up, and it is our turn

    def close(self) -> None:
        """Close the sockets; questions under way end as failures."""
        self._is_closed = True
        self._transport.close()

    def _is_at_home(self) -> bool:
        """Tell whether this is the event loop that sockets and waiters belong to; they begin anew where it is over."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return True
        if self._loop is not None:
            if not self._loop.is_closed() or self._is_closed:
                return False
            self._begin()
        self._loop = loop
        return True

    def _look(self) -> None:
        """Other servers may see another world: what the former ones said stands only if these do not answer."""
        if self._servers.look():
            self._transport.keep_only(self._servers.in_order)
            self._cache.doubt(self._clock.monotonic())

    async def _ask_anew(self, name: str, rdtype: str) -> Answer:
        self._under_way[name, rdtype] = asked = asyncio.Event()
        walk = _Walk(name, rdtype)
        try:
            answer = await self._ask_servers(walk)
            now = self._clock.monotonic()
            if answer is None and walk.word is None:
                stale = self._cache.stale(name, rdtype, walk.why, now)
                if stale is not None:
                    return stale
            return self._cache.keep(answer if answer is not None else walk.failure(), now)
        finally:
            del self._under_way[name, rdtype]
            asked.set()

    # -- asking servers ------------------------------------------------------------------------------------------------

    async def _ask_servers(self, walk: "_Walk") -> Answer | None:
        """Give what a server said, or None: the walk knows why."""
        try:
            question = encode_question(walk.name, walk.rdtype)
        except ValueError as error:
            return Answer(walk.name, walk.rdtype, AnswerStatus.SERVFAIL, canonical=walk.name, detail=str(error))
        try:
            async with asyncio.timeout(self._patience.total_s), self._places:
                return await self._follow(walk, question)
        except TimeoutError:
            walk.silent(f"no answer within {self._patience.total_s:g} s in all")
            return None

    async def _follow(self, walk: "_Walk", question: bytes) -> Answer | None:
        for _ in range(self._patience.rounds):
            self._look()
            for server in self._servers.in_order:
                if server in walk.done:
                    continue
                answer = await self._try(server, walk, question)
                if answer is not None:
                    self._servers.answered(server)
                    return answer
        return None

    async def _try(self, server: Server, walk: "_Walk", question: bytes) -> Answer | None:
        """Ask one server once; None when that did not settle the question."""
        where = f"{server[0]}:{server[1]}"
        try_s = self._patience.share_s(len(self._servers.in_order))
        try:
            async with asyncio.timeout(try_s):
                said = await self._exchange(server, walk, question)
        except TimeoutError:
            walk.silent(f"no answer from {where} within {try_s:.2g} s")
        except OSError as error:
            walk.silent(f"no answer from {where}: {(error.strerror or str(error)).lower()}")
        except ValueError as error:
            walk.silent(f"{where} sent {error}")
        else:
            if isinstance(said, Unable):
                walk.unable(server, f"{said.why} from {where}")
            elif said.status is AnswerStatus.SERVFAIL:
                walk.heard(server, said, f"{said.detail} from {where}")
            else:
                return said
        return None

    async def _exchange(self, server: Server, walk: "_Walk", question: bytes) -> Answer | Unable:
        """Ask with EDNS, unless this server is known not to know it; once more without when it says so (RFC 6891 7)."""
        if not self._servers.wants_edns(server):
            return await self._read(server, walk, question, with_edns=False)
        said = await self._read(server, walk, question, with_edns=True)
        if not isinstance(said, Unable) or not said.may_lack_edns:
            return said
        plain = await self._read(server, walk, question, with_edns=False)
        if not isinstance(plain, Unable) or not plain.may_lack_edns:
            self._servers.lacks_edns(server)
        return plain

    async def _read(self, server: Server, walk: "_Walk", question: bytes, *, with_edns: bool) -> Answer | Unable:
        message = await self._transport.exchange(server, question, with_edns=with_edns)
        return decode_answer(walk.name, walk.rdtype, message, trust_ad=self._servers.trust_ad)


class _Walk:
    """One question's way along the servers, and what went wrong with each."""

    def __init__(self, name: str, rdtype: str) -> None:
        self.name = name
        self.rdtype = rdtype
        self.done: set[Server] = set()  # they did answer: asking them again would change nothing
        self.word: Answer | None = None  # a failure that is about the name
        self._how: list[str] = []

    @property
    def why(self) -> str:
        """What went wrong, in the order in which it did."""
        return "; ".join(self._how)[:300]

    def silent(self, how: str) -> None:
        """A server did not answer; the next round may try it again."""
        if how not in self._how:
            self._how.append(how)

    def unable(self, server: Server, how: str) -> None:
        """A server does not do its work."""
        self.done.add(server)
        self.silent(how)

    def heard(self, server: Server, word: Answer, how: str) -> None:
        """A server says that the name is broken; another one may know better."""
        self.unable(server, how)
        self.word = word

    def failure(self) -> Answer:
        """What to say when no server settled it: a failure that was said counts more than silence."""
        if self.word is not None:
            return replace(self.word, detail=self.why)
        status = AnswerStatus.SERVFAIL if self.done else AnswerStatus.TIMEOUT
        return Answer(self.name, self.rdtype, status, canonical=self.name, detail=self.why)
