# SPDX-License-Identifier: MIT
"""From an envelope to command octets: nothing in an address can become a command or a parameter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.smtp.exchange import Exchange, Transaction, compose, encode_command
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.steps import Step

UTF8 = Extensions(smtputf8=True)

INJECTIONS = [
    pytest.param("a@b>\r\nRCPT TO:<x@y", id="crlf"),
    pytest.param("a@b\r", id="cr"),
    pytest.param("a@b\n", id="lf"),
    pytest.param("a@b\0", id="nul"),
    pytest.param("a@b> SIZE=1", id="parameter"),
    pytest.param("a@b>", id="closing-bracket"),
    pytest.param("<a@b", id="opening-bracket"),
    pytest.param("a b@c", id="space"),
    pytest.param("a@b\t", id="tab"),
    pytest.param("a@b\x7f", id="del"),
    pytest.param("a@b\x1b[2J", id="ansi"),
    pytest.param("a@b\x85", id="c1-next-line"),
    pytest.param("a@b\u2028", id="line-separator"),
    pytest.param("a@b\ud800", id="surrogate"),
    pytest.param('"a\r\nRCPT TO:<x>"@d', id="crlf-in-quotes"),
    pytest.param('"a@b', id="open-quote"),
    pytest.param('"a"b"@c', id="odd-quotes"),
    pytest.param('"a\\"@b> X', id="escaped-quote-leaves-it-open"),
    pytest.param("a\\>@b", id="backslash-outside-quotes"),
    pytest.param('"a\\', id="ends-in-a-backslash"),
]


@pytest.mark.parametrize("path", INJECTIONS)
@pytest.mark.parametrize("smtputf8", [False, True])
def test_injection_is_refused_in_reverse_path_and_recipient(path: str, smtputf8: bool) -> None:
    """No address, however it got into an envelope, can end its command or begin another."""
    for reverse_path, recipients in ((path, ("c@d",)), ("a@b", (path,)), ("a@b", ("c@d", path))):
        with pytest.raises(LocalProtocolError) as caught:
            compose(Transaction(reverse_path, recipients, 1, Body.SEVEN_BIT, smtputf8), UTF8)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["a@b", "a%b@c", "a!b@c", '"a b"@d', '"a@b"@d', '"a>b"@d', '"<\\">"@d', '""@d', "a@[IPv6:::1]", "a@[192.0.2.1]",
     "@a,@b:c@d", "postmaster", "a'`{|}~=?@b"],
)  # fmt: skip
def test_odd_but_legal_paths_pass_unchanged(path: str) -> None:
    """Local parts are opaque: quoted strings and old signs go out as they came."""
    assert (
        compose(Transaction("", (path,), 1, Body.SEVEN_BIT, False), Extensions())[1] == f"RCPT TO:<{path}>\r\n".encode()
    )


def test_utf8_path_passes_only_with_smtputf8() -> None:
    """Letters of any script, joiners included, go out as UTF-8 where both sides agreed on that."""
    path = "क्‍ष@例え.example"

    commands = compose(Transaction(path, (path,), 1, Body.SEVEN_BIT, True), UTF8)

    assert commands[0] == f"MAIL FROM:<{path}> SMTPUTF8\r\n".encode()
    for smtputf8, extensions in ((True, Extensions()), (False, UTF8)):
        with pytest.raises(LocalProtocolError):
            compose(Transaction("", (path,), 1, Body.SEVEN_BIT, smtputf8), extensions)


@given(st.text(max_size=40), st.booleans())
def test_one_command_is_one_line(line: str, utf8: bool) -> None:
    """Whatever text is given, either nothing leaves or exactly one line does."""
    try:
        octets = encode_command(line, utf8)
    except LocalProtocolError:
        return

    assert octets.endswith(b"\r\n")
    assert not any(octet < 0x20 or octet == 0x7F for octet in octets[:-2])
    assert utf8 or octets.isascii()


@given(st.text(st.sampled_from('ab@ <>"\\.é\n'), max_size=12))
def test_a_path_that_passes_stays_between_its_brackets(path: str) -> None:
    """A reader that honours quoted strings finds the closing bracket exactly where we put it."""
    try:
        command = compose(Transaction("", (path,), 1, Body.SEVEN_BIT, True), UTF8)[1].decode()
    except LocalProtocolError:
        return

    inside, escaped = False, False
    for place, character in enumerate(command[len("RCPT TO:<") :]):
        if escaped:
            escaped = False
        elif inside:
            escaped = character == "\\"
            inside = character != '"'
        elif character == '"':
            inside = True
        elif character == ">":
            assert place == len(path)
            return
        else:
            assert character not in " <\\"
    pytest.fail("the path never ended")


def test_pathological_path_is_judged_quickly() -> None:
    """The check of a path takes linear time."""
    with pytest.raises(LocalProtocolError):
        compose(
            Transaction("", ('"' + "\\a" * 50_000 + '"' + "a" * 50_000 + '"',), 1, Body.SEVEN_BIT, False), Extensions()
        )


@pytest.mark.parametrize(("recipients", "groups"), [(1, [3]), (100, [102]), (101, [100, 3]), (200, [100, 102])])
def test_groups_are_bounded(recipients: int, groups: list[int]) -> None:
    """With PIPELINING at most 100 recipients are outstanding, and DATA never travels alone."""
    exchange = Exchange([b"MAIL\r\n", *[b"RCPT\r\n"] * recipients, b"DATA\r\n"])
    taken: list[tuple[bytes, list[Step]]] = []

    while not taken or taken[-1][1][-1] is not Step.DATA:
        taken.append(exchange.take_group(pipelining=True))

    assert [len(steps) for _, steps in taken] == groups
    assert all(octets.count(b"\r\n") == len(steps) for octets, steps in taken)


def test_a_transaction_cannot_end_unanswered() -> None:
    """There is no summary before MAIL has an answer."""
    with pytest.raises(LocalProtocolError):
        Exchange([b"MAIL\r\n", b"RCPT\r\n", b"DATA\r\n"]).summary(None)
