# SPDX-License-Identifier: MIT
"""A Sink for programs that embed a relay: all goes to the stdlib logger "smarthost", which we never set up."""

import logging

from smarthost.mail.record import TROUBLES, Record, to_json

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LoggingSink:
    """See ports.Sink. Failures for good and broken hosts are warnings, everything else that happens is info."""

    def __init__(self, name: str = "smarthost") -> None:
        self._logger = logging.getLogger(name)

    def record(self, record: Record) -> None:
        level = logging.WARNING if record.kind in TROUBLES else logging.INFO
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", to_json(record).decode())

    def note(self, level: str, what: str, **facts: object) -> None:
        self._logger.log(_LEVELS[level], "%s %s", what, to_json(facts).decode() if facts else "")
