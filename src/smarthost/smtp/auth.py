# SPDX-License-Identifier: MIT
"""What a client says in AUTH: PLAIN (RFC 4616) and LOGIN, as the Base64 text of RFC 4954.

Pure. It decides neither when a password may be sent (send.session: only inside TLS that the policy trusts) nor what a
refusal means (send.verdict). Nothing here is ever logged: send.transcript removes AUTH lines.
"""

from base64 import b64encode

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.hop import Credentials

_TELLING = 4  # characters of Base64 by which a secret is known, however the host cut it; fewer stand in any sentence


def plain_response(credentials: Credentials) -> str:
    """Give the one response of PLAIN: empty authorisation identity, user, password.

    Raises: LocalProtocolError: user or password is empty, has a NUL, or is not valid text (RFC 4616 2).
    """
    return _base64("\0" + _checked(credentials.username) + "\0" + _checked(credentials.password))


def login_responses(credentials: Credentials) -> tuple[str, str]:
    """Give the two responses of LOGIN, in the order every host asks for them: user, then password.

    Raises: LocalProtocolError: as for `plain_response`.
    """
    return _base64(_checked(credentials.username)), _base64(_checked(credentials.password))


def hide_secrets(text: str, credentials: Credentials) -> str:
    """Cut off what a host said where it begins to repeat what we said in AUTH: some hosts quote the command."""
    said = [each[:_TELLING] for each in (plain_response(credentials), *login_responses(credentials))]
    if len(credentials.password) >= _TELLING:
        said.append(credentials.password)
    places = [text.find(each) for each in said]
    cut = min([place for place in places if place >= 0], default=len(text))
    return text if cut == len(text) else f"{text[:cut]}***"


def _checked(text: str) -> str:
    # The message names no value: it may end up in a log.
    if not text or "\0" in text:
        raise LocalProtocolError("a user name or password for AUTH is empty or has a NUL in it")
    return text


def _base64(text: str) -> str:
    try:
        return b64encode(text.encode("utf-8")).decode("ascii")
    except UnicodeEncodeError:
        raise LocalProtocolError("a user name or password for AUTH is not valid Unicode text") from None
