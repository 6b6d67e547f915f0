# SPDX-License-Identifier: MIT
"""Send mail from a program, durably: python examples/library.py STATE_DIR HOST:PORT

HOST:PORT is the next hop, such as a test sink on 127.0.0.1:1025. When `submit` returns, the message survives a crash of
this program: whichever program opens the state directory next delivers it.
"""

import asyncio
import sys
from email.message import EmailMessage

from smarthost import BlockingRelay, Relay, SubmissionRefused


def invitation(number: int) -> EmailMessage:
    """Write a message as any program does."""
    message = EmailMessage()
    message["From"] = "me@example.org"
    message["To"] = "you@example.net"
    message["Subject"] = f"Grüße, Nr. {number}"
    message.set_content("Come and see.\n.\nThe dot above is content.\n")
    return message


async def from_a_program_with_a_loop(state_dir: str, next_hop: str) -> None:
    """Submit with await; see the queue; learn what is refused."""
    async with Relay(state_dir=state_dir, next_hop=next_hop, hostname="app.example.org") as relay:
        receipt = await relay.submit(invitation(1), "me@example.org", ["you@example.net"])
        print("durable as", receipt.id)
        try:
            await relay.submit(invitation(2), "me@example.org", ["no such address"])
        except SubmissionRefused as refused:
            print("refused with", refused.reply)
        page = await relay.find()
        print("still waiting:", len(page.messages))  # delivery goes on while the program gets on with its work


def from_a_program_without(state_dir: str, next_hop: str) -> None:
    """The same from ordinary code, from as many threads as you like."""
    with BlockingRelay(state_dir=state_dir, next_hop=next_hop, hostname="app.example.org") as relay:
        receipt = relay.submit(invitation(3), "me@example.org", ["you@example.net"])
        print("durable as", receipt.id)


if __name__ == "__main__":
    asyncio.run(from_a_program_with_a_loop(*sys.argv[1:3]))
    from_a_program_without(*sys.argv[1:3])
