# SPDX-License-Identifier: MIT
"""Transcripts between the client machine and a host, as text: what the tests of the machine share."""

from smarthost.mail.envelope import Body
from smarthost.mail.errors import RemoteProtocolError
from smarthost.smtp.client import SmtpClient, Transaction
from smarthost.smtp.wire import ClientEvent, ContentWanted, TransactionEnded

CONTENT = b"Subject: hi\r\n\r\n.\r\n"
STUFFED = "Subject: hi||..|."


def show(event: ClientEvent) -> str:
    """Write an event in one line: its name and the codes it brings, `-` where nothing was heard."""
    match event:
        case TransactionEnded(mail, recipients, data, final):
            codes = [reply.code if reply else "-" for reply in recipients]
            last = [reply.code if reply else "-" for reply in (data, final)]
            return f"ended {mail.code} {codes} {last[0]} {last[1]}".replace("'", "")
        case ContentWanted():
            return "content wanted"
        case _:
            return f"{type(event).__name__} {event.reply.code}"


def drain(client: SmtpClient) -> list[str]:
    """Give all events that are there, shown; an error is the last of them."""
    shown = []
    try:
        while (event := client.next_event()) is not None:
            shown.append(show(event))
    except RemoteProtocolError:
        shown.append("error")
    return shown


def octets(lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines.split("|")).encode()


def session(*offers: str) -> SmtpClient:
    """Give a session that is ready for mail, at a host that offers these extensions."""
    client = SmtpClient()
    client.receive(b"220 mx.example ESMTP\r\n")
    assert drain(client) == ["BannerReceived 220"]
    client.hello("relay.example")
    assert client.take_output() == b"EHLO relay.example\r\n"
    lines = ["mx.example", *offers]
    client.receive("".join(f"250-{line}\r\n" for line in lines[:-1]).encode() + f"250 {lines[-1]}\r\n".encode())
    assert drain(client) == ["HelloAnswered 250"]
    return client


def transaction(*recipients: str, smtputf8: bool = False, body: Body = Body.SEVEN_BIT) -> Transaction:
    return Transaction("a@b", recipients or ("c@d",), len(CONTENT), body, smtputf8)


def play(client: SmtpClient, script: str) -> list[str]:
    """Run a transcript against the machine, and give the events.

    `C:` what the machine must have written by now, `S:` what the host says. A machine that wants content gets it.
    """
    events = []
    for line in script.strip().splitlines():
        side, _, said = line.strip().partition(": ")
        if side == "S":
            client.receive(octets(said))
            fresh = drain(client)
            events += fresh
            if fresh[-1:] == ["content wanted"]:
                written = b"".join(client.content([CONTENT]))
                client.content_end()
                assert written + client.take_output() == octets(STUFFED)
        else:
            assert client.take_output() == octets(said)
    assert client.take_output() == b""
    return events
