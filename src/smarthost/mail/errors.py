# SPDX-License-Identifier: MIT
"""Every exception of smarthost, in one tree.

    SmarthostError
    |-- LocalProtocolError        our bug: a caller broke the order a machine demands
    |-- RemoteProtocolError       the peer broke SMTP; carries the reply to give, if one is due
    |-- TransportError            dial, TLS, timeout, connection closed
    |   |-- ConnectFailed
    |   |-- TlsFailed
    |   |-- DeadlinePassed
    |   `-- ConnectionLost
    |-- ResolutionError           no way to a domain; carries the enhanced code and what DNS said
    |   |-- NotADomain            5.1.3   what was asked for is no domain name (a ValueError, too)
    |   |-- DomainNotFound        5.1.2
    |   |-- NullMX                5.1.10  the domain says that it accepts no mail
    |   |-- RelayLoop             5.4.6   its best exchanger is ourselves
    |   |-- NoUsableExchanger     5.4.4   it has no exchanger that mail may go to
    |   |-- ResolutionFailed      4.4.3   DNS does not say
    |   |-- CanonicalNameLoop     4.4.6
    |   `-- CanonicalNameChainTooLong     4.4.4
    |-- StoreError                the store cannot promise durability now
    |   |-- StoreFull             ... because space is short
    |   |-- StoreBusy             ... because too many wait for it already
    |   |-- NoNewMail             ... because an operator wants it so
    |   `-- StoreLocked           ... because another process owns the state directory
    |-- SubmissionRefused         mail handed to us in code was refused; carries the reply
    `-- ConfigError               names the key, and the line where it is known

A peer's "no" is a value (mail.reply.Reply), never an exception. Foreign exceptions are translated once, in backends/.
"""

from smarthost.mail.reply import Reply


class SmarthostError(Exception):
    """Base of everything smarthost raises on purpose."""


class LocalProtocolError(SmarthostError):
    """We asked a protocol machine for something its state does not allow: a bug of ours."""


class RemoteProtocolError(SmarthostError):
    """The peer sent what SMTP does not allow, and the session cannot go on."""

    def __init__(self, detail: str, reply: Reply | None = None) -> None:
        super().__init__(detail)
        self.reply = reply


class TransportError(SmarthostError):
    """The connection failed; `step` names where (connect, banner, tls, mail, ...)."""

    def __init__(self, detail: str, *, step: str = "") -> None:
        super().__init__(detail)
        self.step = step


class ConnectFailed(TransportError):
    """No connection was made: refused, unreachable, or timed out."""


class TlsFailed(TransportError):
    """The TLS handshake failed, or the certificate did not satisfy the policy."""


class DeadlinePassed(TransportError):
    """The peer let a deadline pass."""


class ConnectionLost(TransportError):
    """The peer closed or reset the connection."""


class ResolutionError(SmarthostError):
    """DNS gave no usable answer for `domain`.

    `status` is an enhanced code (RFC 3463), `evidence` a line for each answer of DNS and each decision about it.
    """

    def __init__(self, detail: str, *, domain: str = "", status: str = "4.4.3", evidence: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.domain = domain
        self.status = status
        self.evidence = evidence

    @property
    def is_permanent(self) -> bool:
        """Tell whether asking again later is no use."""
        return self.status.startswith("5")


class NotADomain(ResolutionError, ValueError):
    """What was asked for is no domain name, and no address literal in brackets."""


class DomainNotFound(ResolutionError):
    """The domain does not exist."""


class NullMX(ResolutionError):
    """The domain says that it accepts no mail (RFC 7505)."""


class RelayLoop(ResolutionError):
    """The best exchanger of the domain is ourselves: mail would run in a circle (RFC 5321 5.1)."""


class NoUsableExchanger(ResolutionError):
    """The domain has no exchanger with an address that mail may go to."""


class ResolutionFailed(ResolutionError):
    """DNS could not say: it failed, did not answer in time, or not credibly. Ask again later."""


class CanonicalNameLoop(ResolutionError):
    """A CNAME chain came back to a name it had already visited."""


class CanonicalNameChainTooLong(ResolutionError):
    """A CNAME chain needed more further lookups than allowed."""


class StoreError(SmarthostError):
    """The store cannot make anything durable now; to a peer this is always 4xx."""


class StoreFull(StoreError):
    """Space is short: new mail is refused with 452 4.3.1, settlements still work."""


class StoreBusy(StoreError):
    """Too many wait already."""


class NoNewMail(StoreError):
    """No new mail is taken, by an operator's wish; the text is for clients, in visible ASCII."""


class StoreLocked(StoreError):
    """Another process owns the state directory, or the directory is not ours to use."""


class SubmissionRefused(SmarthostError):
    """The programmatic door refused a message; `reply` is what an SMTP client would have read."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class ConfigError(SmarthostError):
    """A setting is wrong; `key` is its dotted path, `line` its line in the file where known."""

    def __init__(self, detail: str, *, key: str = "", line: int | None = None) -> None:
        where = f"{key}: " if key else ""
        if line is not None:
            where = f"line {line}: {where}"
        super().__init__(where + detail)
        self.detail = detail
        self.key = key
        self.line = line
