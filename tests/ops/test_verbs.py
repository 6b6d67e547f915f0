# SPDX-License-Identifier: MIT
"""What is said on the control socket survives the wire."""

import msgspec
import pytest
from tests.ops.rig import host, message

from smarthost.mail.explanation import ExplainedAddress, ExplainedHost, ExplainedPolicy, Explanation, NoHost, Probed
from smarthost.ops import verbs
from smarthost.queue.store import Filter

EXPLANATION = Explanation(
    address="a@b.example",
    domain="b.example",
    destination="b.example",
    rule="default",
    conclusion="It goes.",
    policy=ExplainedPolicy(25, "required", False, "relay.example.org"),
    hosts=(ExplainedHost("mx.b.example", 10, (ExplainedAddress("192.0.2.1", "open", 1.5, "a\nb"),)),),
    no_host=NoHost(True, "5.1.2", "no"),
    probes=(
        Probed("mx.b.example", "192.0.2.1", False, "tls", "no", 0.5, extensions=("SIZE",), transcript=("> QUIT",)),
    ),
)
REQUESTS: list[verbs.Request] = [
    verbs.Ping(),
    verbs.Send("a@b.example", ("c@d.example", "é@f.example"), 7),
    verbs.QueueFind(),
    verbs.QueueFind(Filter(id="x", domain="d.example")),
    verbs.QueueChange("cancel", Filter(reverse_path="<>")),
    verbs.HostsFind(),
    verbs.HostsFind("mx1.example.org"),
    verbs.HostsReset("192.0.2.1"),
    verbs.HostsReset("", everything=True),
    verbs.PlanAddress("é@f.example", probe=True),
]
ANSWERS: list[verbs.Answer] = [
    verbs.Pong(1, "0.1", (("127.0.0.1", 25),), 2, 3),
    verbs.Go(),
    verbs.Filed("0" * 16),
    verbs.Found(message("0" * 16, "a@b.example")),
    verbs.ChangedSome((("0" * 16, 1),), ()),
    verbs.HostFound(host("192.0.2.1", "mx\n.example", waiting=("a.example",), waiting_count=1)),
    verbs.Working(),
    verbs.Explained(EXPLANATION),
    verbs.Done(),
    verbs.Refused(550, "5.7.1", "No\r\nway"),
    verbs.Failed("a\nb", 70),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda said: type(said).__name__)
def test_requests_survive_the_wire(request_: verbs.Request) -> None:
    """The daemon reads what the command meant, from one line."""
    line = verbs.to_line(request_)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert verbs.decode_request(line) == request_


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda said: type(said).__name__)
def test_answers_survive_the_wire(answer: verbs.Answer) -> None:
    """The command reads what the daemon meant, from one line."""
    line = verbs.to_line(answer)

    assert line.count(b"\n") == 1
    assert verbs.decode_answer(line) == answer


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"verb":"drop"}',
        b'{"verb":"queue-change","change":"destroy","which":{}}',
        b'{"verb":"hosts-find","text":7}',
        b'{"verb":"hosts-reset","text":null,"everything":"yes"}',
        b'{"verb":"plan-address"}',
        b'{"verb":"plan-address","address":"a@b.example","probe":1}',
        b'{"verb":"plan-address","address":"' + b"x" * 1025 + b'"}',
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    """Unknown verbs are errors, not ignored."""
    with pytest.raises(msgspec.MsgspecError):
        verbs.decode_request(line)


def test_a_newer_daemon_may_say_more() -> None:
    """An old command does not stumble over a field it does not know."""
    assert verbs.decode_answer(b'{"what":"filed","id":"x","node":"n1"}') == verbs.Filed("x")
