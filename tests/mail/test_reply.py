# SPDX-License-Identifier: MIT
"""Replies as values."""

from smarthost.mail.reply import reply


def test_the_enhanced_code_stands_on_every_line() -> None:
    """A multi-line reply repeats code and enhanced code (RFC 2034 4)."""
    octets = reply(550, "5.7.1", "one", "two").encode()

    assert b"550-5.7.1 one\r\n550 5.7.1 two\r\n" == octets


def test_a_reply_reads_as_one_line_in_records() -> None:
    """Records and reports show a reply on one line."""
    assert "450 4.2.0 try later please" == str(reply(450, "4.2.0", "try later", "please"))
    assert "250" == str(reply(250, "", ""))


def test_the_first_digit_decides_the_class() -> None:
    """2xx and 3xx are positive, 4xx temporary, 5xx permanent."""
    classes = [
        (each.is_positive, each.is_temporary, each.is_permanent)
        for each in (reply(c, "", "x") for c in (250, 354, 421, 550))
    ]

    assert [(True, False, False), (True, False, False), (False, True, False), (False, False, True)] == classes
