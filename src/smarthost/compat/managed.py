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
from smarthost.compat.client import describe_error
from smarthost.mail.errors import ConnectionLost, RemoteProtocolError
from smarthost.mail.reply import Reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.send import verdict
from smarthost.smtp.replies import ReplyParser
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

_OK = Reply(250, "", ("",))
_GARBLED = Reply(451, "4.5.0", ("a reply that is none",))

Secret = bytes | Callable[[Any], bytes | None] | None


class ManagedRelayerMixin:
    """Tells `manager` what became of each message, and when the connection is gone. `factory` must be set."""

    factory: Any
    messages: list[Any]
    names: list[Any]
    isGreeted = False  # the host has taken EHLO, STARTTLS and AUTH: mail can be spoken of

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def getMailFrom(self) -> str | None:
        """Give the present message's sender; the first time it is asked for, the host has greeted us."""
        if not self.isGreeted:
            self.isGreeted = True
            identity = getattr(self, "identity", b"")
            _tell(self.manager, "notifyGreeted", self.factory, identity.decode("ascii", "replace"))
        sender: str | None = super().getMailFrom()  # type: ignore[misc]
        return sender

    def sentMail(self, code: int, resp: Any, numOk: Any, addresses: Any, log: Any) -> None:
        """Tell what the host's word means for the present message, and go on to the next.

        A 4xx is not the end of a message, nor is a 5xx that is about our session: it waits and is tried again.
        """
        message = self.names[0]
        del self.messages[0]
        del self.names[0]
        if code in smtp.SUCCESS:
            self.manager.notifySuccess(self.factory, message)
            return
        judged = self._judge(code, resp, numOk, addresses)
        _tell(self.manager, "notifyVerdict", self.factory, message, judged)
        if judged.outcome is Outcome.BOUNCED:
            self.manager.notifyFailure(self.factory, message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that no more mail goes over this connection; before the greeting it was none at all."""
        lost = getattr(super(), "connectionLost", None)
        if lost is not None:
            lost(reason)
            self._tell_why(getattr(self, "whyEnded", "") or describe_error(reason.value))
        self.manager.notifyDone(self.factory)

    def _tell_why(self, why: str) -> None:
        if not self.isGreeted:
            self.factory.whyNotConnected = why
            self.manager.notifyNoConnection(self.factory)
        elif self.names and getattr(self, "_from", None) is not None:  # in the middle of a transaction
            step = Step.FINAL if getattr(self, "isContentSent", False) else Step.DATA
            place = (getattr(self.manager, "exchange", ""), _peer_of(self))
            judged = verdict.after_lost_transaction(step, ConnectionLost(why), None, 1, *place, soft_bounce=False)
            _tell(self.manager, "notifyVerdict", self.factory, self.names[0], judged[0].verdict)

    def _judge(self, code: int, resp: Any, numOk: Any, addresses: Any) -> Verdict:
        said = _read_reply(code, resp)
        if addresses and not numOk:
            ended = TransactionEnded(_OK, (_read_reply(*addresses[-1][1:3]),), None, None)
        elif not addresses:
            ended = TransactionEnded(said, (), None, None)
        elif getattr(self, "isContentSent", False):
            ended = TransactionEnded(_OK, (_OK,), None, said)
        else:
            ended = TransactionEnded(_OK, (_OK,), said, None)
        host = getattr(self.manager, "exchange", "")
        return verdict.after_transaction(ended, 1, host, _peer_of(self), soft_bounce=False)[0].verdict


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

    def __init__(self, messages: Sequence[str], manager: Any, *args: Any, **kw: Any) -> None:
        self.messages = messages
        self.manager = manager
        self.pArgs = args
        self.pKwArgs = kw

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the relayer; None, and the connection is closed, if it cannot be made."""
        try:
            made = self._build(addr)
        except Exception as error:  # noqa: BLE001 - whatever a program's own class or secret raises must end the attempt
            log.msg(f"no relayer for {addr}: {error!r}")
            self.whyNotConnected = f"{type(error).__name__} while the relayer was made"
            self._isUnbuilt = True
            return None
        made.factory = self
        return made

    def clientConnectionFailed(self, connector: IConnector | None, reason: Failure) -> None:
        """Tell that there is no connection, and that this was all."""
        self.whyNotConnected = describe_error(reason.value)
        self.manager.notifyNoConnection(self)
        self.manager.notifyDone(self)

    def clientConnectionLost(self, connector: IConnector | None, reason: Failure) -> None:
        """Tell the same when no relayer was there to do so."""
        if self._isUnbuilt:
            self._isUnbuilt = False
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
        return self.protocol(self.messages, self.manager, secret, self.contextFactory, *self.pArgs, **self.pKwArgs)


def _tell(manager: Any, method: str, *told: object) -> None:
    ears = getattr(manager, method, None)
    if ears is not None:
        ears(*told)


def _read_reply(code: int, resp: Any) -> Reply:
    """Give what Twisted's client heard as a Reply, clean; what is none counts as temporary."""
    text = resp.encode("utf-8", "replace") if isinstance(resp, str) else resp or b""
    lines = text.split(b"\n")
    parser = ReplyParser()
    for n, line in enumerate(lines, start=1):
        parser.feed(b"%d%c%s\r\n" % (code, b" " if n == len(lines) else b"-", line))
    try:
        return parser.next_reply() or _GARBLED
    except RemoteProtocolError:
        return _GARBLED


def _peer_of(relayer: Any) -> str:
    transport = getattr(relayer, "transport", None)
    return str(getattr(transport.getPeer(), "host", "")) if transport is not None else ""
