# SPDX-License-Identifier: MIT
"""accept.senders: which reverse-paths somebody may use."""

import pytest

from smarthost.accept.senders import Senders, senders_of
from smarthost.mail.address import Address, to_domain
from smarthost.mail.errors import ConfigError


def address(text: str) -> Address:
    return Address(text, to_domain(text.rpartition("@")[2]))


@pytest.mark.parametrize(
    ("senders", "text", "may"),
    [
        (("*",), "anybody@anywhere.example", True),
        ((), "ann@example.org", False),
        (("ann@example.org",), "ann@example.org", True),
        (("ann@example.org",), "Ann@EXAMPLE.org", True),
        (("ann@example.org",), "bob@example.org", False),
        (("ann@example.org",), "ann@sub.example.org", False),
        (("ann@example.org",), "xann@example.org", False),
        (("ann@example.org",), "ann+tag@example.org", False),
        (("ann@example.org",), '"ann"@example.org', False),
        (("ann@example.org",), '"x@y"@example.org', False),
        (("@example.org",), '"x@evil.example"@example.org', True),
        (("@example.org",), "ann@example.org", True),
        (("@example.org",), "ann@sub.example.org", False),
        (("@example.org",), "ann@notexample.org", False),
        (("@example.org",), "ann@example.org.evil.example", False),
        (("@bücher.example",), "ann@xn--bcher-kva.example", True),
        (("@xn--bcher-kva.example",), "ann@BÜCHER.example", True),
        (("ä@example.org",), "Ä@example.org", False),  # beyond ASCII only the host itself knows
        (("k@example.org",), "\u212a@example.org", False),  # KELVIN SIGN, whose lower case is k
        (("@[192.0.2.1]",), "root@[192.0.2.1]", True),
    ],
)
def test_senders_are_compared_by_domain_and_local_part(senders: tuple[str, ...], text: str, may: bool) -> None:
    """Whole addresses and whole domains, without regard to case where that is safe; no subdomains, no unquoting."""
    assert Senders(senders).allow(address(text)) is may


@pytest.mark.parametrize("text", ["example.org", "", "@", "ann@", "@.", "ann@exa mple..org"])
def test_what_is_no_sender_is_named(text: str) -> None:
    """A typing error is told when it is read, not when mail is refused."""
    with pytest.raises(ConfigError) as error:
        Senders((text,))

    assert "senders" == error.value.key


def test_the_senders_of_a_user_are_worked_out_once() -> None:
    """The same list gives the same object."""
    assert senders_of(("@example.org",)) is senders_of(("@example.org",))
