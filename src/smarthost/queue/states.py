# SPDX-License-Identifier: MIT
"""The states of a recipient and every legal move between them, as a table (design section 4).

Pure. The table in ARCHITECTURE.md is `to_markdown()`; a test compares them. LEASED exists in memory only: a crash gives
every lease back. A verb upon a leased recipient moves nothing: it is a wish, which `settle_wish` weighs against the
verdict when it comes.
"""

from enum import Enum

from msgspec import Struct

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.settlement import State


class QueueState(Enum):
    """Where a recipient can be: the values of mail.settlement.State, and leased."""

    DEFERRED = "deferred"
    HELD = "held"
    LEASED = "leased"
    RELAYED = "relayed"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = (QueueState.RELAYED, QueueState.BOUNCED, QueueState.EXPIRED, QueueState.CANCELLED)


class Cause(Enum):
    """What can move a recipient: the queue's own doing, a verdict, or an operator's verb."""

    LEASE = "lease"
    GIVE_BACK = "give back"
    RELAYED = "relayed"
    DEFERRED = "deferred"
    POSTPONED = "postponed"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    DAMAGED = "damaged"
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"
    BOUNCE = "bounce"
    EXPIRE = "expire"
    REROUTE = "reroute"


VERBS = (Cause.RETRY, Cause.HOLD, Cause.RELEASE, Cause.CANCEL, Cause.BOUNCE, Cause.EXPIRE, Cause.REROUTE)


class Move(Struct, frozen=True, gc=False):
    """One legal move; `when` says in a few words what makes it."""

    source: QueueState
    cause: Cause
    target: QueueState
    when: str


_D, _H, _L = QueueState.DEFERRED, QueueState.HELD, QueueState.LEASED

MOVES = (
    Move(_D, Cause.LEASE, _L, "its time has come and a slot of its lane pulls it, or the sweep takes it"),
    Move(_D, Cause.EXPIRED, QueueState.EXPIRED, "it is older than `retry.expire_after_s`, attempted or not"),
    Move(_D, Cause.DAMAGED, _H, "what is stored of it is damaged: it is not sent"),
    Move(_D, Cause.RETRY, _D, "an operator makes it due at once"),
    Move(_D, Cause.HOLD, _H, "an operator holds it"),
    Move(_D, Cause.CANCEL, QueueState.CANCELLED, "an operator drops it; nobody is told"),
    Move(_D, Cause.BOUNCE, QueueState.BOUNCED, "an operator returns it"),
    Move(_D, Cause.EXPIRE, QueueState.EXPIRED, "an operator gives it up; its sender is told"),
    Move(_D, Cause.REROUTE, _D, "an operator sends it another way; it is due at once"),
    Move(_H, Cause.LEASE, _L, "it is moved to another node, held as it is"),
    Move(_H, Cause.EXPIRED, QueueState.EXPIRED, "the hold has lasted `retry.hold_s`"),
    Move(_H, Cause.RETRY, _D, "it was found damaged, and is looked at once more"),
    Move(_H, Cause.HOLD, _H, "an operator renews the hold"),
    Move(_H, Cause.RELEASE, _D, "an operator lets it go; it is due at once"),
    Move(_H, Cause.CANCEL, QueueState.CANCELLED, "an operator drops it; nobody is told"),
    Move(_H, Cause.BOUNCE, QueueState.BOUNCED, "an operator returns it"),
    Move(_H, Cause.EXPIRE, QueueState.EXPIRED, "an operator gives it up; its sender is told"),
    Move(_H, Cause.REROUTE, _H, "an operator sends it another way, once it is released"),
    Move(_L, Cause.GIVE_BACK, _D, "whoever had the lease did not use it, nobody has it, or a crash ended it"),
    Move(_L, Cause.RELAYED, QueueState.RELAYED, "the next hop, or another node of ours, took responsibility"),
    Move(_L, Cause.DEFERRED, _D, "a temporary failure; one attempt is counted"),
    Move(_L, Cause.POSTPONED, _D, "nothing was tried; no attempt is counted"),
    Move(_L, Cause.BOUNCED, QueueState.BOUNCED, "a permanent refusal"),
    Move(_L, Cause.EXPIRED, QueueState.EXPIRED, "its last attempt failed, or the sweep took it"),
    *(Move(_L, verb, _L, "a wish: applied when its settlement comes, if that defers it") for verb in VERBS),
)

_TARGETS = {(move.source, move.cause): move.target for move in MOVES}


def move(state: QueueState, cause: Cause) -> QueueState:
    """Give the state that `cause` leads to.

    Raises: LocalProtocolError: no such move, with a sentence that names the legal ones.
    """
    target = _TARGETS.get((state, cause))
    if target is None:
        raise LocalProtocolError(_explain(state, cause))
    return target


def _explain(state: QueueState, cause: Cause) -> str:
    legal = [each.cause.value for each in MOVES if each.source is state]
    if not legal:
        return f"a {state.value} recipient is at its end: {cause.value!r} cannot move it"
    return f"a {state.value} recipient cannot be moved by {cause.value!r}, only by {', '.join(legal)}"


def settle_wish(verdict: State, wish: Cause | None) -> State:
    """Weigh a wish against what the attempt brought: a verdict that ends the recipient wins, a deferral gives way.

    Raises: LocalProtocolError: `wish` is not an operator's verb, or the verdict is no outcome of an attempt.
    """
    if verdict is State.HELD or verdict is State.CANCELLED:
        raise LocalProtocolError(f"no attempt ends {verdict.value}")
    if wish is None or verdict.is_terminal:
        return verdict
    if wish not in VERBS:
        raise LocalProtocolError(f"{wish.value!r} is no verb an operator can say")
    if wish is Cause.RELEASE:
        return State.DEFERRED  # it was not held; due at once all the same
    return State(move(QueueState.DEFERRED, wish).value)


def to_markdown() -> str:
    """Render the table as ARCHITECTURE.md shows it."""
    lines = ["| from | by | to | when |", "|---|---|---|---|", "| | accept | deferred | the message became durable |"]
    lines += [f"| {each.source.value} | {each.cause.value} | {each.target.value} | {each.when} |" for each in MOVES]
    return "\n".join(lines) + "\n"
