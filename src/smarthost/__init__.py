# SPDX-License-Identifier: MIT
"""A smart host: the mail relay that every other node hands its mail to.

    async with Relay(state_dir="/var/lib/myapp/mail", next_hop="mail.example.org:587") as relay:
        receipt = await relay.submit(message, "me@example.org", ["you@example.net"])

When `submit` returns, the message is durable; it is delivered, retried, and reported on by this process or the next one
that opens the state directory. `MXCalculator` stands alone: it tells where the mail for a domain goes. Names are
imported on first use: importing smarthost costs a program nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smarthost.accept.inject import Receipt as Receipt
    from smarthost.assemble import Relay as Relay
    from smarthost.blocking import BlockingRelay as BlockingRelay
    from smarthost.calculator import Exchanger as Exchanger
    from smarthost.calculator import MXCalculator as MXCalculator
    from smarthost.mail.errors import ConfigError as ConfigError
    from smarthost.mail.errors import ResolutionError as ResolutionError
    from smarthost.mail.errors import SmarthostError as SmarthostError
    from smarthost.mail.errors import StoreError as StoreError
    from smarthost.mail.errors import SubmissionRefused as SubmissionRefused
    from smarthost.mail.reply import Reply as Reply
    from smarthost.queue.store import Filter as Filter

_HOMES = {
    "BlockingRelay": "smarthost.blocking",
    "ConfigError": "smarthost.mail.errors",
    "Exchanger": "smarthost.calculator",
    "Filter": "smarthost.queue.store",
    "MXCalculator": "smarthost.calculator",
    "Receipt": "smarthost.accept.inject",
    "Relay": "smarthost.assemble",
    "Reply": "smarthost.mail.reply",
    "ResolutionError": "smarthost.mail.errors",
    "SmarthostError": "smarthost.mail.errors",
    "StoreError": "smarthost.mail.errors",
    "SubmissionRefused": "smarthost.mail.errors",
}
__all__ = tuple(sorted(_HOMES))


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'smarthost' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
