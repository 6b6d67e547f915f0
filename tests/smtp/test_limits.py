# SPDX-License-Identifier: MIT
"""The limits an operator may set, and that the fixed ones agree with each other."""

from typing import Any

import msgspec
import pytest

from smarthost.mail.errors import ConfigError
from smarthost.smtp import limits
from smarthost.smtp.limits import Limits, check_limits


def test_default_limits_are_allowed() -> None:
    """A listener without any setting works."""
    check_limits(Limits())


@pytest.mark.parametrize(
    ("field", "least"),
    [
        ("message_octets", 65_536),
        ("recipients", 100),
        ("errors", 1),
        ("connections", 1),
        ("connections_per_client", 1),
        ("command_timeout_s", 1.0),
        ("content_timeout_s", 1.0),
    ],
)
def test_each_limit_has_a_floor_and_the_error_names_its_key(field: str, least: float) -> None:
    """A limit below what RFC 5321 demands is refused by the name the operator wrote; the floor itself is fine."""
    at_floor: dict[str, Any] = {field: least}
    below: dict[str, Any] = {field: least - 1}

    check_limits(Limits(**at_floor))
    with pytest.raises(ConfigError) as caught:
        check_limits(Limits(**below), "listeners.smtp")

    assert caught.value.key == f"listeners.smtp.{field}"
    assert f"below {least:g}" in caught.value.detail


@pytest.mark.parametrize("field", ["command_timeout_s", "content_timeout_s", "content_total_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_time_without_end_is_refused(field: str, value: float) -> None:
    """Every wait on a client ends some day."""
    with pytest.raises(ConfigError, match=field):
        check_limits(msgspec.structs.replace(Limits(), **{field: value}))


def test_total_time_for_content_below_the_pause_is_refused() -> None:
    """A total shorter than one allowed pause would make the pause meaningless."""
    with pytest.raises(ConfigError, match="content_total_s"):
        check_limits(Limits(content_timeout_s=180, content_total_s=60))


def test_message_limit_beyond_what_size_can_say_is_refused() -> None:
    """SIZE has at most 20 digits."""
    check_limits(Limits(message_octets=10**18))
    with pytest.raises(ConfigError, match="message_octets"):
        check_limits(Limits(message_octets=10**18 + 1))


def test_patience_with_a_host_is_what_the_rfc_asks_for() -> None:
    """RFC 5321 4.5.3.2 gives the least times a client should wait."""
    asked = {
        "BANNER_S": 300,
        "MAIL_S": 300,
        "RCPT_S": 300,
        "CONTENT_BLOCK_S": 180,
        "FINAL_DOT_S": 600,
        "SERVER_COMMAND_S": 300,
    }

    assert {name: getattr(limits, name) for name in asked} == asked


def test_sizes_fit_into_each_other() -> None:
    """A path fits into a command line, a command line into what is thrown away of a longer one."""
    assert limits.LOCAL_PART_OCTETS < limits.DOMAIN_OCTETS < limits.PATH_OCTETS
    assert limits.PATH_OCTETS + 512 < limits.COMMAND_LINE_OCTETS < limits.DISCARD_OCTETS
    assert limits.CONTENT_PIECE_OCTETS <= limits.MESSAGE_OCTETS_FLOOR
