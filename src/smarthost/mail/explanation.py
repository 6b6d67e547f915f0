# SPDX-License-Identifier: MIT
"""What explanations are made of: hosts and what is known against them, and what would happen to a message now.

Values only; hosts.py and explain.py make them from the state of the code that decides, ops shows them. Field names are
stable: they are the JSON of `smarthost hosts` and `smarthost plan`. Times are wall seconds, 0.0 where there is none.
"""

from msgspec import Struct


class HostReport(Struct, frozen=True, gc=False):
    """One host that is not closed, and the evidence against it.

    `service`: "" for mail at port 25 from any local address, else which service of the address it is about (port, local
    address, what a policy demands of it). `state`: "open" (nobody dials before `next_probe_at`) or "half-open" (a probe
    is due or under way); "closed" for a host nothing is known against. `failures`: in a row since `since`; `steps`: how
    often each step failed, most often first. `step` and `detail` are the last failure's. `waiting`: up to 100 of the
    `waiting_count` destinations that wait for it, by name, with `waiting_recipients` in all. `is_probed`: a probe is
    under way at this moment.
    """

    address: str
    name: str
    service: str
    state: str
    failures: int
    since: float
    last_failure_at: float
    step: str
    detail: str
    next_probe_at: float
    steps: tuple[tuple[str, int], ...] = ()
    waiting: tuple[str, ...] = ()
    waiting_count: int = 0
    is_probed: bool = False
    waiting_recipients: int = 0


class ExplainedAddress(Struct, frozen=True, gc=False):
    """An address of a host: may it be dialled now (`state` as in HostReport), or not `until`, and why not."""

    address: str
    state: str
    until: float = 0.0
    why: str = ""


class ExplainedPolicy(Struct, frozen=True, gc=False):
    """What a session there must be like. `tls` is a mail.hop.TlsLevel value; `username` "" means no AUTH.

    `protocol`: "smtp" or "lmtp".
    """

    port: int
    tls: str
    implicit_tls: bool
    helo: str
    source: str = ""
    username: str = ""
    protocol: str = "smtp"


class ExplainedHost(Struct, frozen=True, gc=False):
    """A host of the plan with its preference, and its addresses in the order in which they would be tried.

    `preference`: the least first; of next hops it is their place in the route. `policy`: what a session with this host
    must be like, where that is not the explanation's.
    """

    name: str
    preference: int
    addresses: tuple[ExplainedAddress, ...]
    policy: ExplainedPolicy | None = None


class NoHost(Struct, frozen=True, gc=False):
    """Why there is no host: `permanent` would bounce now, else it is asked again at `until` (0.0: by the schedule)."""

    permanent: bool
    status: str
    why: str
    until: float = 0.0


class Probed(Struct, frozen=True, gc=False):
    """How far a probe of one address came: it never says MAIL.

    `step`: where it ended ("ready" when all went well); `why`: what failed there, or "". `tls`: version and cipher, ""
    in clear. `extensions`: the last EHLO's lines. `transcript`: lines that begin with "> " (ours), "< " (the host's) or
    "* " (a note).
    """

    host: str
    address: str
    ok: bool
    step: str
    why: str
    took_s: float
    tls: str = ""
    extensions: tuple[str, ...] = ()
    transcript: tuple[str, ...] = ()


class Explanation(Struct, frozen=True, gc=False):
    """What would happen to a message for an address now, as the code decides that decides it for mail.

    `sender`: who writes it, if that was said (a reverse-path, or "user:NAME"): routes may ask for it. `destination` is
    the route key, `rule` the route that chose it. `no_host` is set when there are no `hosts`.
    `suspended_until` with `suspended_why`: the destination sleeps because all its hosts are refused. `evidence`: what
    DNS said, a line for each answer and each decision about it. `conclusion`: one sentence, what happens to a message.
    """

    address: str
    domain: str
    destination: str
    rule: str
    conclusion: str
    lane: str = ""
    policy: ExplainedPolicy | None = None
    hosts: tuple[ExplainedHost, ...] = ()
    no_host: NoHost | None = None
    caveat: str = ""
    suspended_until: float = 0.0
    suspended_why: str = ""
    evidence: tuple[str, ...] = ()
    probes: tuple[Probed, ...] = ()
    sender: str = ""
