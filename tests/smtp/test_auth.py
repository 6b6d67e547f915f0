# SPDX-License-Identifier: MIT
"""The responses of AUTH PLAIN and LOGIN."""

from base64 import b64decode

import pytest

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.hop import Credentials
from smarthost.smtp.auth import login_responses, plain_response


def test_plain_matches_the_example_of_the_rfc() -> None:
    """The user tim with his password is encoded as RFC 4954 section 4.1 shows (without an authorisation identity)."""
    assert plain_response(Credentials("test", "1234")) == "AHRlc3QAMTIzNA=="


def test_plain_is_utf8() -> None:
    """Names and passwords of any language are UTF-8 (RFC 4616)."""
    octets = b64decode(plain_response(Credentials("jörg", "pässword ☃")))

    assert octets == b"\0" + "jörg".encode() + b"\0" + "pässword ☃".encode()


def test_login_gives_user_then_password() -> None:
    """LOGIN answers the two questions in their usual order."""
    assert [b64decode(response) for response in login_responses(Credentials("user", "pass"))] == [b"user", b"pass"]


@pytest.mark.parametrize(
    ("username", "password"),
    [
        pytest.param("a\0b", "secret", id="nul-in-user"),
        pytest.param("a", "sec\0ret", id="nul-in-password"),
        pytest.param("", "secret", id="empty-user"),
        pytest.param("a", "", id="empty-password"),
        pytest.param("a", "secret\ud800", id="surrogate"),
    ],
)
def test_unfit_credentials_are_refused_without_showing_them(username: str, password: str) -> None:
    """A NUL would make one field of PLAIN look like two; the error does not print the password."""
    credentials = Credentials(username, password)

    for encode in (plain_response, login_responses):
        with pytest.raises(LocalProtocolError) as caught:
            encode(credentials)
        assert "sec" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_long_responses_are_one_line() -> None:
    """Base64 is not wrapped: a line break would end the command."""
    assert "\n" not in plain_response(Credentials("u" * 300, "p" * 300))
