# SPDX-License-Identifier: MIT
"""From an envelope to command octets: nothing in an address can become a command or a parameter."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.envelope import Body, DsnRequest, Notify
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
    taken: list[tuple[bytes, Sequence[Step]]] = []

    while not taken or taken[-1][1][-1] is not Step.DATA:
        taken.append(exchange.take_group(pipelining=True))

    assert [len(steps) for _, steps in taken] == groups
    assert all(octets.count(b"\r\n") == len(steps) for octets, steps in taken)


def test_a_transaction_cannot_end_unanswered() -> None:
    """There is no summary before MAIL has an answer."""
    with pytest.raises(LocalProtocolError):
        Exchange([b"MAIL\r\n", b"RCPT\r\n", b"DATA\r\n"]).summary(None)


EVERYTHING = Extensions(
    dsn=True, requiretls=True, binarymime=True, chunking=True, smtputf8=True, eight_bit_mime=True, size=0
)
WISHES = Transaction(
    "a@b", ("c@d", "e@f"), 9, Body.EIGHT_BIT_MIME, False, ret="HDRS", envid="QQ+2B314", requires_tls=True,
    requests=(DsnRequest(Notify.SUCCESS | Notify.DELAY, "rfc822;Bob+2Btag@example.org"), DsnRequest(Notify.NEVER)),
)  # fmt: skip


def lines(transaction: Transaction, extensions: Extensions) -> list[str]:
    return [command.decode().removesuffix("\r\n") for command in compose(transaction, extensions)]


def test_wishes_are_passed_on_to_a_host_that_offers_everything() -> None:
    """RET, ENVID, NOTIFY, ORCPT as they were written, and REQUIRETLS (RFC 3461 5.2.1, RFC 8689)."""
    assert lines(WISHES, EVERYTHING) == [
        "MAIL FROM:<a@b> SIZE=9 BODY=8BITMIME REQUIRETLS RET=HDRS ENVID=QQ+2B314",
        "RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2Btag@example.org",
        "RCPT TO:<e@f> NOTIFY=NEVER",
        "DATA",
    ]


def test_a_host_without_dsn_hears_nothing_of_reports() -> None:
    """The parameters are sent only where they are offered; anywhere else they would be refused (RFC 3461 5.2.2)."""
    assert lines(WISHES, Extensions(requiretls=True)) == [
        "MAIL FROM:<a@b> REQUIRETLS",
        "RCPT TO:<c@d>",
        "RCPT TO:<e@f>",
        "DATA",
    ]


@pytest.mark.parametrize(
    ("request_", "parameters"),
    [
        (DsnRequest(), ""),
        (DsnRequest(Notify.NEVER), " NOTIFY=NEVER"),
        (DsnRequest(Notify.FAILURE), " NOTIFY=FAILURE"),
        (DsnRequest(Notify.SUCCESS | Notify.FAILURE | Notify.DELAY), " NOTIFY=SUCCESS,FAILURE,DELAY"),
        (DsnRequest(orcpt="x-own;"), " ORCPT=x-own;"),
    ],
)
def test_notify_and_orcpt(request_: DsnRequest, parameters: str) -> None:
    """Each only if it was given: to add NOTIFY=FAILURE would be to ask for what nobody asked."""
    sent = Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(request_,))

    assert lines(sent, EVERYTHING)[1] == f"RCPT TO:<c@d>{parameters}"


@pytest.mark.parametrize(
    "evil",
    ["x\r\nRCPT TO:<y@z>", "x\n", "x\r", "x\0", "x y", "x NOTIFY=NEVER", "x=y", "+", "+4", "+zz", "+0D+0A", "+7F",
     "\x7f", "\x1b[2J", "é", "\u2028", "\x85", "\ud800"],
)  # fmt: skip
def test_injection_is_refused_in_envid_and_orcpt(evil: str) -> None:
    """Whatever is not xtext of printable ASCII never leaves, also not what a reader would decode to a line's end."""
    for wishes in (
        Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, envid=evil),
        Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, ret=evil),
        Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(orcpt=f"rfc822;{evil}"),)),
        Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(orcpt=f"{evil};x"),)),
    ):
        if evil.startswith("+") and wishes.requests and wishes.requests[0].orcpt.startswith("+"):
            continue  # an atom may hold it
        with pytest.raises(LocalProtocolError) as caught:
            compose(wishes, EVERYTHING)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("evil", ["rfc822", ";x", "rfc 822;x", "(c);x", '"rfc822";x', "rfc822;" + "x" * 494])
def test_an_orcpt_that_is_none_is_refused(evil: str) -> None:
    """Type, semicolon, address, at most 500 characters (RFC 3461 4.2)."""
    with pytest.raises(LocalProtocolError):
        compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(orcpt=evil),)), EVERYTHING)


def test_an_envid_has_100_characters_at_most() -> None:
    """RFC 3461 4.4."""
    assert "ENVID" in lines(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, envid="x" * 100), EVERYTHING)[0]
    with pytest.raises(LocalProtocolError):
        compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, envid="x" * 101), EVERYTHING)


def test_utf8_orcpt_goes_only_with_smtputf8() -> None:
    """RFC 6533 3: an address in UTF-8 where both sides agreed on that, no line separator even then."""
    requests = (DsnRequest(orcpt="utf-8;jörg@example.org"),)

    commands = compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, True, requests=requests), EVERYTHING)

    assert commands[1] == "RCPT TO:<c@d> ORCPT=utf-8;jörg@example.org\r\n".encode()
    for smtputf8, orcpt in ((False, "utf-8;jörg@x"), (True, "utf-8;j\u2028@x"), (True, "utf-8;j\x85@x")):
        evil = (DsnRequest(orcpt=orcpt),)
        with pytest.raises(LocalProtocolError):
            compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, smtputf8, requests=evil), EVERYTHING)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(Transaction("", ("c@d", "e@f"), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(),)), id="short"),
        pytest.param(
            Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(), DsnRequest())), id="long"
        ),
        pytest.param(
            Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=(DsnRequest(Notify.NEVER | Notify.DELAY),)),
            id="never-and-more",
        ),
    ],
)
def test_requests_that_make_no_sense_are_our_bug(sent: Transaction) -> None:
    """One for each recipient or none at all, and NEVER stands alone: nobody gets another's wishes."""
    with pytest.raises(LocalProtocolError):
        compose(sent, EVERYTHING)


def test_requiretls_is_a_demand() -> None:
    """A host that does not offer it gets nothing (RFC 8689 4.2.1)."""
    with pytest.raises(LocalProtocolError):
        compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requires_tls=True), Extensions(dsn=True))


def test_binary_content_has_no_data() -> None:
    """It leaves in chunks, where both extensions are offered and nowhere else."""
    sent = Transaction("", ("c@d",), 1, Body.BINARY_MIME, False)

    assert lines(sent, EVERYTHING) == ["MAIL FROM:<> SIZE=1 BODY=BINARYMIME", "RCPT TO:<c@d>"]
    for extensions in (Extensions(), Extensions(chunking=True), Extensions(binarymime=True)):
        with pytest.raises(LocalProtocolError):
            compose(sent, extensions)


def test_pathological_orcpt_is_judged_quickly() -> None:
    """The length is looked at first, and the check takes linear time."""
    evil = (DsnRequest(orcpt="!" * 1_000_000),)
    with pytest.raises(LocalProtocolError):
        compose(Transaction("", ("c@d",), 1, Body.SEVEN_BIT, False, requests=evil), EVERYTHING)
