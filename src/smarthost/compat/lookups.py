# SPDX-License-Identifier: MIT
"""What came of asking a calculator for an exchanger: the host's name, or words for why there is none.

A program's own calculator may fire with anything that looks like an MX record, and fail as it likes.
"""

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.names.error import DNSQueryRefusedError, DNSServerError
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.words import shown
from smarthost.mail.errors import NullMX

_FAILURES = (
    (TimeoutError, "no name server answers"),
    (DNSServerError, "the name server cannot say (SERVFAIL)"),
    (DNSQueryRefusedError, "the name server refuses to say (REFUSED)"),
)


def bounded(asked: "Deferred[Any]", seconds: float, clock: Any) -> "Deferred[Any]":
    """Fire as `asked` does, or fail with TimeoutError after so many seconds, whatever `asked` does about that.

    It is cancelled then; a late answer changes nothing.
    """
    bounded: Deferred[Any] = Deferred()

    def give_up() -> None:
        bounded.errback(Failure(TimeoutError(f"no answer within {seconds:g} s")))
        try:
            asked.cancel()
        except Exception as error:  # noqa: BLE001 - a program's own canceller; nobody waits for it any more
            log.msg(f"cancelling a lookup: {shown(repr(error))}")

    def end(result: Any) -> None:
        if not bounded.called:
            timer.cancel()
            bounded.callback(result)  # a Failure fires the errbacks

    timer = clock.callLater(seconds, give_up)
    asked.addBoth(end)
    return bounded


def name_of(mx: Any, domain: str) -> str:
    """Give the host of an MX record, "" for none. Raises: NullMX: the empty name, to a reactor, is this machine."""
    if mx is None:
        return ""
    host = str(mx.name)
    if host in ("", "."):
        raise NullMX(f"{domain} accepts no mail (a null MX record)", domain=domain, status="5.1.10")
    return host


def describe_lookup(failure: Failure) -> str:
    """Say what a resolver's failure is; Twisted's own text is often a packet."""
    for kind, words in _FAILURES:
        if failure.check(kind):
            return words
    return f"{type(failure.value).__name__}: {shown(failure.getErrorMessage())}"
