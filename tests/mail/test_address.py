# SPDX-License-Identifier: MIT
"""Domains derived for routing."""

import pytest

from smarthost.mail.address import to_domain


@pytest.mark.parametrize(
    ("written", "domain"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # nontransitional: not "strasse"
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a", "a"),
        ("Bücher.example.", "xn--bcher-kva.example"),
        ("Bücher.example\u3002", "xn--bcher-kva.example"),
        ("Bücher.example\uff0e", "xn--bcher-kva.example"),
        ("Bücher.example\uff61", "xn--bcher-kva.example"),
        ("Bücher\u3002example", "xn--bcher-kva.example"),
        ("example.org\u3002", "example.org"),
        ("\uff25xample.org", "example.org"),
    ],
)
def test_a_domain_is_lower_case_and_in_a_labels(written: str, domain: str) -> None:
    """However a domain is written, routing sees one form."""
    assert domain == to_domain(written)


@pytest.mark.parametrize(
    "written",
    ["", ".", "a..b", ".a", "a..", "a" * 64 + ".example", "a." * 128 + "a", "ü" * 300, "\u2024.example", "a\u0000ü.b",
     "é..", "é\u3002.", "é.\uff61", "é..b", ".é", "\u3002", "\uff0ea", "a\u3002\u3002b", "ü" * 60 + ".b",
     "a\u3002" * 128 + "a", "a" * 64 + "\u3002b"],
)  # fmt: skip
def test_what_dns_cannot_hold_is_refused(written: str) -> None:
    """Empty or overlong labels, and what IDNA forbids, are a ValueError."""
    with pytest.raises(ValueError, match=r"domain|label"):
        to_domain(written)
