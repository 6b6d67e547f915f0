# SPDX-License-Identifier: MIT
"""/api/v1/hosts: which hosts are known as broken, and how to say that they work."""

from msgspec import Struct

from smarthost.mail.explanation import HostReport
from smarthost.ops.http.asking import Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope

TOLD = 1000


class Hosts(Struct, frozen=True):
    """Hosts that are not closed, longest broken first: the first thousand of `count`."""

    hosts: tuple[HostReport, ...]
    count: int


async def list_hosts(desk: Desk, ask: Ask) -> Answer:
    """Give what is known against hosts."""
    found = await desk.relay.report_hosts(ask.text("name"))
    return Answer(Hosts(found[:TOLD], len(found)))


async def reset_hosts(desk: Desk, ask: Ask) -> Answer:
    """Forget what is known against one host, or all; gives what it was."""
    name, everything = ask.text("name"), ask.flag("everything")
    if everything == bool(name):
        raise Problem("unusable", "say name=HOST, or everything=true")
    found = await desk.relay.reset_hosts(name)
    desk.remembered.forget()
    if name and not found:
        raise Problem("not-found", "nothing is known against a host of this name, address or service")
    desk.sink.note("info", "hosts reset", by=f"{ask.token.name} (API)", host=name or "all", hosts=len(found))
    return Answer(Hosts(found[:TOLD], len(found)))


_NAME = Parameter("name", "A host's name, address or service; whatever its case")
ENDPOINTS = (
    Endpoint(
        name="listHosts",
        method="GET",
        path="/hosts",
        scope=Scope.READ,
        about="The hosts that are known as broken, with the evidence and who waits for them.",
        serve=list_hosts,
        answer=Hosts,
        parameters=(_NAME,),
    ),
    Endpoint(
        name="resetHosts",
        method="DELETE",
        path="/hosts",
        scope=Scope.OPERATE,
        about="Forget what is known against a host, or all hosts; what waited for them is due now.",
        serve=reset_hosts,
        answer=Hosts,
        parameters=(_NAME, Parameter("everything", "All hosts", "boolean")),
        problems=("not-found", "unusable"),
    ),
)
