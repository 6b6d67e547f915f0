# SPDX-License-Identifier: MIT
"""A sender of the demo: hands letters to the relay over SMTP, one after the other in one session.

It speaks the least SMTP there is (RFC 5321 D.1) and shares no code with the relay.
"""

import asyncio
from collections.abc import Callable, Iterable

from smarthost.ops.demo.scenery import HOME, Letter

Answered = Callable[[Letter, str], None]


async def send_letters(address: tuple[str, int], letters: Iterable[Letter], answered: Answered) -> None:
    """Send each letter and tell the relay's last reply to it: that to the final dot, or the first that is no yes.

    Raises: OSError, EOFError: the connection failed.
    """
    reader, writer = await asyncio.open_connection(*address)
    try:
        await _hear(reader)
        await _say(reader, writer, f"EHLO workstation.{HOME}")
        for letter in letters:
            answered(letter, await _send_letter(reader, writer, letter))
        await _say(reader, writer, "QUIT")
    finally:
        writer.close()


async def _send_letter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, letter: Letter) -> str:
    commands = [f"MAIL FROM:<{letter.reverse_path}> BODY=8BITMIME"]
    commands += [f"RCPT TO:<{recipient}>" for recipient in letter.recipients]
    for command in (*commands, "DATA"):
        reply = await _say(reader, writer, command)
        if reply[0] not in "23":
            await _say(reader, writer, "RSET")
            return reply
    stuffed = (b"\r\n" + letter.content).replace(b"\r\n.", b"\r\n..")[2:]
    writer.write(stuffed + b".\r\n")
    return await _hear(reader)


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str) -> str:
    writer.write(f"{command}\r\n".encode())
    return await _hear(reader)


async def _hear(reader: asyncio.StreamReader) -> str:
    """Give the last line of the next reply."""
    while True:
        line = (await reader.readuntil(b"\r\n")).decode("utf-8", "replace").rstrip()
        if line[3:4] != "-":
            return line
