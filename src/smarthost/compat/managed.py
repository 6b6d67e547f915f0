# SPDX-License-Identifier: MIT
"""Managed relayers and their factories: SMTP clients that tell an attempt manager what became of each message.

What a reply means is decided by send.verdict, as in the relay. The classic interface of an attempt manager has words
for success, failure, no connection and done; what it has no word for (greeted, the reply itself, deferral) is told to
one that has ears for it (`_tell`), so that a program's own attempt manager works as it did. A crash leaves the messages
where they are: only `notifySuccess` and `notifyFailure` end them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import protocol
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat import relay
from smarthost.compat.client import describe_error, peer_of
from smarthost.mail.errors import ConnectionLost, RemoteProtocolError
from smarthost.mail.reply import Reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.send import verdict
from smarthost.smtp.replies import REPLY_LINES, ReplyParser
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

_OK = Reply(250, "", ("",))
_GARBLED = Reply(451, "4.5.0", ("a reply that is none",))
_LINE_OCTETS = 512  # RFC 5321 4.5.3.1.5; 100 of them are less than a Reply may have: a verdict is not lost to its text

Secret = bytes | str | Callable[[Any], bytes | str | None] | None


class ManagedRelayerMixin:
    """Tells `manager` what became of each message, and when the connection is gone. `factory` must be set."""

    factory: Any = None
    messages: list[Any]
    names: list[Any]
    isGreeted = False  # the host has taken EHLO, STARTTLS and AUTH: mail can be spoken of
    isEnded = False  # the manager was told that no more mail goes this way

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def smtpState_from(self, code: int, resp: bytes) -> None:
        """Begin the next transaction; before the first one tell that the host has greeted us."""
        if not self.isGreeted:
            self.isGreeted = True
            identity = getattr(self, "identity", b"")
            _tell(self.manager, "notifyGreeted", self.factory, identity.decode("ascii", "replace"))
        super().smtpState_from(code, resp)  # type: ignore[misc]

    def sentMail(self, code: int, resp: Any, numOk: Any, addresses: Any, log: Any) -> None:
        """Tell what the host's word means for the present message, and go on to the next.

        A 4xx is not the end of a message, nor is a 5xx that is about our session: it waits and is tried again.
        """
        message = self.names[0]
        getattr(self, "_close", _leave)()
        del self.messages[0]
        del self.names[0]
        if code in smtp.SUCCESS:
            _tell(self.manager, "notifyAccepted", self.factory, message, str(_read_reply(code, resp)))
            self.manager.notifySuccess(self.factory, message)
            return
        judged = self._judge(code, resp, numOk, addresses)
        _tell(self.manager, "notifyVerdict", self.factory, message, judged)
        if judged.outcome is Outcome.BOUNCED:
            self.manager.notifyFailure(self.factory, message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that no more mail goes over this connection; before the greeting it was none at all."""
        if self.isEnded:
            return
        self.isEnded = True
        try:
            lost = getattr(super(), "connectionLost", None)
            if lost is not None:
                lost(reason)
                self._tell_why(getattr(self, "whyEnded", "") or describe_error(reason.value))
        finally:
            _tell(self.factory, "relayerEnded")
            self.manager.notifyDone(self.factory)

    def _settle(self, *told: Any) -> None:
        ManagedRelayerMixin.sentMail(self, *told)

    def _tell_why(self, why: str) -> None:
        if not self.isGreeted:
            self.factory.whyNotConnected = why
            self.manager.notifyNoConnection(self.factory)
        elif self.names and getattr(self, "_from", None) is not None:  # in the middle of a transaction
            step = Step.FINAL if getattr(self, "isContentSent", False) else Step.DATA
            place = (getattr(self.manager, "exchange", ""), peer_of(getattr(self, "transport", None)))
            judged = verdict.after_lost_transaction(step, ConnectionLost(why), None, 1, *place, soft_bounce=False)
            _tell(self.manager, "notifyVerdict", self.factory, self.names[0], judged[0].verdict)

    def _judge(self, code: int, resp: Any, numOk: Any, addresses: Any) -> Verdict:
        said = _read_reply(code, resp)
        if getattr(self, "isOwnWord", False):
            outcome = Outcome.BOUNCED if said.is_permanent else Outcome.DEFERRED
            return Verdict(outcome, said.enhanced, " ".join(said.lines))
        if addresses and not numOk:
            ended = TransactionEnded(_OK, (_read_reply(*addresses[-1][1:3]),), None, None)
        elif not addresses:
            ended = TransactionEnded(said, (), None, None)
        elif getattr(self, "isContentSent", False):
            ended = TransactionEnded(_OK, (_OK,), None, said)
        else:
            ended = TransactionEnded(_OK, (_OK,), said, None)
        host = getattr(self.manager, "exchange", "")
        address = peer_of(getattr(self, "transport", None))
        return verdict.after_transaction(ended, 1, host, address, soft_bounce=False)[0].verdict


class SMTPManagedRelayer(ManagedRelayerMixin, relay.SMTPRelayer):
    """Relays messages over SMTP for an attempt manager: paths, manager, then the arguments of `smtp.SMTPClient`."""

    def __init__(self, messages: Sequence[str], manager: Any, *args: Any, **kw: Any) -> None:
        ManagedRelayerMixin.__init__(self, manager)
        relay.SMTPRelayer.__init__(self, messages, *args, **kw)


class ESMTPManagedRelayer(ManagedRelayerMixin, relay.ESMTPRelayer):
    """Relays messages over ESMTP for an attempt manager: paths, manager, then the arguments of `smtp.ESMTPClient`."""

    def __init__(self, messages: Sequence[str], manager: Any, *args: Any, **kw: Any) -> None:
        ManagedRelayerMixin.__init__(self, manager)
        relay.ESMTPRelayer.__init__(self, messages, *args, **kw)


class SMTPManagedRelayerFactory(protocol.ClientFactory):
    """Makes the relayer of one connection. `messages`: paths without suffix; `args` and `kw`: for the relayer."""

    protocol: Callable[..., Any] = SMTPManagedRelayer
    noisy = False
    whyNotConnected = ""
    _isUnbuilt = False
    _isEndTold = False  # by a relayer of the present connection, whoever made it
    _made: Any = None  # the relayer of the present connection, if it was made here

    def __init__(self, messages: Sequence[str], manager: Any, *args: Any, **kw: Any) -> None:
        self.messages = messages
        self.manager = manager
        self.pArgs = args
        self.pKwArgs = kw

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the relayer; None, and the connection is closed, if it cannot be made."""
        self._isUnbuilt = self._isEndTold = False
        try:
            made = self._made = self._build(addr)
            made.factory = self
            reactor = getattr(self.manager, "reactor", None)
            if reactor is not None:
                made.callLater = reactor.callLater  # its deadlines are kept there, too
        except Exception as error:  # noqa: BLE001 - whatever a program's own class or secret raises must end the attempt
            log.msg(f"no relayer for {addr}: {error!r}")
            self.whyNotConnected = f"{type(error).__name__} while the relayer was made"
            self._isUnbuilt = True
            return None
        return made

    def clientConnectionFailed(self, connector: IConnector | None, reason: Failure) -> None:
        """Tell that there is no connection, and that this was all."""
        self.whyNotConnected = describe_error(reason.value)
        self.manager.notifyNoConnection(self)
        self.manager.notifyDone(self)

    def clientConnectionLost(self, connector: IConnector | None, reason: Failure) -> None:
        """Tell the end when no relayer was there to do so, or one whose class forgot to."""
        try:
            self._tell_end(reason)
        finally:
            self._made = None
            self._isUnbuilt = self._isEndTold = False

    def relayerEnded(self) -> None:
        """A relayer tells the manager itself that the present connection is over."""
        self._isEndTold = True

    def _tell_end(self, reason: Failure) -> None:
        if self._isUnbuilt:
            self._tell_broken()
        elif self._isEndTold:
            return
        elif isinstance(self._made, ManagedRelayerMixin):
            log.msg(f"{type(self._made).__name__}.connectionLost should call the one it overrides")
            ManagedRelayerMixin.connectionLost(self._made, reason)
        else:  # a program's own buildProtocol made none, or one of which we do not know what it told
            if not getattr(self.manager, "_isHeard", False):
                self.whyNotConnected = f"no relayer of ours: {describe_error(reason.value)}"
                self.manager.notifyNoConnection(self)
            self.manager.notifyDone(self)

    def _tell_broken(self) -> None:
        """That no relayer could be made is our fault, not the host's."""
        if getattr(self.manager, "notifyBroken", None) is not None:
            self.manager.notifyBroken(self, self.whyNotConnected)
        else:
            self.manager.notifyNoConnection(self)
            self.manager.notifyDone(self)

    def _build(self, addr: IAddress | None) -> Any:
        return self.protocol(self.messages, self.manager, *self.pArgs, **self.pKwArgs)


class ESMTPManagedRelayerFactory(SMTPManagedRelayerFactory):
    """Makes ESMTP relayers. `secret`: for AUTH, or a callable that gives it for the address connected to."""

    protocol: Callable[..., Any] = ESMTPManagedRelayer

    def __init__(
        self, messages: Sequence[str], manager: Any, secret: Secret, contextFactory: Any, *args: Any, **kw: Any
    ) -> None:
        self.secret = secret
        self.contextFactory = contextFactory
        SMTPManagedRelayerFactory.__init__(self, messages, manager, *args, **kw)

    def _build(self, addr: IAddress | None) -> Any:
        secret = self.secret(addr) if callable(self.secret) else self.secret
        if isinstance(secret, str):  # as a program that comes from Python 2 has it
            secret = secret.encode()
        return self.protocol(self.messages, self.manager, secret, self.contextFactory, *self.pArgs, **self.pKwArgs)


def _tell(manager: Any, method: str, *told: object) -> None:
    ears = getattr(manager, method, None)
    if ears is not None:
        ears(*told)


def _read_reply(code: int, resp: Any) -> Reply:
    """Give what Twisted's client heard as a Reply, clean; what is none counts as temporary."""
    text = resp.encode("utf-8", "replace") if isinstance(resp, str) else resp or b""
    lines = [line[:_LINE_OCTETS] for line in text.split(b"\n", REPLY_LINES)[:REPLY_LINES]]
    parser = ReplyParser()
    for n, line in enumerate(lines, start=1):
        parser.feed(b"%d%c%s\r\n" % (code, b" " if n == len(lines) else b"-", line))
    try:
        return parser.next_reply() or _GARBLED
    except RemoteProtocolError:
        return _GARBLED


def _leave() -> None:
    """There is no content to close: the mixin stands alone."""
