# SPDX-License-Identifier: MIT
"""What is said on the control socket survives the wire."""

import msgspec
import pytest
from tests.ops.rig import message

from smarthost.ops import verbs
from smarthost.queue.store import Filter

REQUESTS: list[verbs.Request] = [
    verbs.Ping(),
    verbs.Send("a@b.example", ("c@d.example", "é@f.example"), 7),
    verbs.QueueFind(),
    verbs.QueueFind(Filter(id="x", domain="d.example")),
    verbs.QueueChange("cancel", Filter(reverse_path="<>")),
]
ANSWERS: list[verbs.Answer] = [
    verbs.Pong(1, "0.1", (("127.0.0.1", 25),), 2, 3),
    verbs.Go(),
    verbs.Filed("0" * 16),
    verbs.Found(message("0" * 16, "a@b.example")),
    verbs.ChangedSome((("0" * 16, 1),), ()),
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
    "line", [b"", b"{}", b"[]", b'{"verb":"drop"}', b'{"verb":"queue-change","change":"bounce","which":{}}']
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    """Unknown verbs are errors, not ignored."""
    with pytest.raises(msgspec.MsgspecError):
        verbs.decode_request(line)


def test_a_newer_daemon_may_say_more() -> None:
    """An old command does not stumble over a field it does not know."""
    assert verbs.decode_answer(b'{"what":"filed","id":"x","node":"n1"}') == verbs.Filed("x")
