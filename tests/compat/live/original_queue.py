# SPDX-License-Identifier: MIT
"""Fills a queue directory with Twisted's own twisted.mail.relaymanager.Queue, as a program of old left it behind.

Run as `python -m tests.compat.live.original_queue DIRECTORY`, with JSON on standard input: lists of sender, recipient
and the lines of a message in Latin-1. Imports nothing of smarthost.
"""

import json
import pickle
import sys

from twisted.mail.relaymanager import Queue


def main() -> None:
    """Write the messages."""
    queue = Queue(sys.argv[1])
    for sender, recipient, lines in json.load(sys.stdin):
        envelope, message = queue.createNewMessage()
        with envelope:
            pickle.dump([sender, recipient], envelope)
        for line in lines:
            message.lineReceived(line.encode("latin-1"))
        message.eomReceived()


if __name__ == "__main__":
    main()
