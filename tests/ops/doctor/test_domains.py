# SPDX-License-Identifier: MIT
"""The DNS records of the domains we send for: SPF, DKIM, DMARC."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.ops.doctor.rig import GLOBAL, Rig, levels, look, machine, told

from smarthost.ops.dkim import record
from smarthost.ops.doctor.configuration import sending_domains
from smarthost.ops.doctor.world import Wishes
from smarthost.testing.dns import Fault, Zone

SMALL = rsa.generate_private_key(65537, 1024)
KEY = ed25519.Ed25519PrivateKey.generate()
OTHER = ed25519.Ed25519PrivateKey.generate()
SPF = f'TXT "v=spf1 ip4:{GLOBAL} -all"'
DMARC = 'TXT "v=DMARC1; p=quarantine"'
NAME = "s1._domainkey.example.org"


def txt(text: str) -> str:
    """Give a TXT record whose text is cut into strings, as long ones are."""
    return "TXT " + " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))


def rig(directory: Path, key: Any = KEY, *, config: str = "", **more: Any) -> Rig:
    """A domain that signs with a key, and whose DNS agrees."""
    file = directory / "dkim.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    signing = f'[[dkim]]\ndomains = ["example.org"]\nselector = "s1"\nkey_file = "{file}"\n'
    zone = Zone({"example.org": SPF, "_dmarc.example.org": DMARC, NAME: txt(record(key))})
    return Rig(config + signing, zone=zone, **more)


def test_records_that_agree_with_us_are_ok(tmp_path: Path) -> None:
    """SPF covers our address, the published key is ours, there is a policy."""
    assert told(look(rig(tmp_path), "domains")) == [
        f"ok example.org: SPF passes for {GLOBAL}, by ip4:{GLOBAL}",
        f"ok {NAME}: the published key is that of {tmp_path / 'dkim.pem'}",
        "ok example.org: DMARC policy quarantine",
    ]


def test_spf_that_denies_our_address_fails_with_the_term_to_add(tmp_path: Path) -> None:
    """The cure is ready to paste."""
    made = rig(tmp_path)
    made.zone.set("example.org", 'TXT "v=spf1 ip4:192.0.2.1 ~all"')

    found = look(made, "domains")

    assert told(found)[0] == f"fail example.org: SPF says softfail for {GLOBAL}, by ~all"
    assert f"add ip4:{GLOBAL}" in found[0].cure


@pytest.mark.parametrize(
    ("records", "level"),
    [
        ((), "warn"),
        (('TXT "v=spf1 ?all"',), "warn"),
        (('TXT "v=spf1 nonsense:x -all"',), "fail"),
        ((SPF, SPF.replace("-all", "~all")), "fail"),
        (('TXT "v=spf1 include:silent.example -all"',), "warn"),
    ],
)
def test_other_states_of_spf(tmp_path: Path, records: tuple[str, ...], level: str) -> None:
    """None, neutral, wrong, two of them, and DNS that does not say."""
    made = rig(tmp_path)
    made.zone.set("example.org", *records)
    made.zone.faults["silent.example"] = Fault.TIMEOUT

    assert levels(look(made, "domains")) == [level, "ok", "ok"]


def test_spf_near_its_limit_is_a_warning(tmp_path: Path) -> None:
    """The next include of a provider breaks it."""
    made = rig(tmp_path)
    names = [f"n{number}.example" for number in range(9)]
    for name in names:
        made.zone.set(name, "A 203.0.113.1")
    made.zone.set("example.org", txt("v=spf1 " + " ".join(f"a:{name}" for name in names) + f" ip4:{GLOBAL} -all"))

    assert levels(look(made, "domains"))[:2] == ["ok", "warn"]


@pytest.mark.parametrize(
    ("published", "level", "seen"),
    [
        ((), "fail", "no key is published"),
        ((txt(record(OTHER)),), "fail", "is not that of"),
        ((txt(record(KEY)), txt(record(OTHER))), "fail", "2 keys are published"),
        ((txt("v=DKIM1; k=ed25519; p="),), "fail", "revoked"),
        ((txt(record(KEY).replace("k=ed25519; ", "")),), "fail", "another kind"),
        ((txt(record(KEY).replace("; k=", "; t=s:y; k=")),), "warn", "as a test"),
        ((txt(record(KEY).replace("v=DKIM1; ", "")),), "ok", "the published key is that of"),
    ],
)
def test_states_of_a_published_key(tmp_path: Path, published: tuple[str, ...], level: str, seen: str) -> None:
    """What receivers would find, against the key that we sign with."""
    made = rig(tmp_path)
    made.zone.set(NAME, *published)

    found = look(made, "domains")

    assert (level, True) == (found[1].level.value, seen in found[1].seen)


def test_a_short_rsa_key_is_a_warning(tmp_path: Path) -> None:
    """It matches, and should be replaced all the same."""
    assert levels(look(rig(tmp_path, SMALL), "domains")) == ["ok", "ok", "warn", "ok"]


@pytest.mark.parametrize(
    ("records", "level"),
    [
        ({}, "warn"),
        ({"_dmarc.example.org": 'TXT "v=DMARC1; p=none"'}, "ok"),
        ({"_dmarc.example.org": 'TXT "v=DMARC1; p=rejekt"'}, "fail"),
        ({"_dmarc.example.org": (DMARC, 'TXT "v=DMARC1; p=none"')}, "fail"),
        ({"_dmarc.example.org": 'TXT "google-site-verification=x"'}, "warn"),
    ],
)
def test_states_of_dmarc(tmp_path: Path, records: dict[str, str | tuple[str, ...]], level: str) -> None:
    """Missing is a warning, wrong a failure."""
    made = rig(tmp_path)
    made.zone.remove("_dmarc.example.org")
    for name, texts in records.items():
        made.zone.set(name, *([texts] if isinstance(texts, str) else texts))

    assert levels(look(made, "domains"))[-1] == level


def test_the_policy_of_the_domain_above_holds_below_it() -> None:
    """mail.example.org needs none of its own; sp= is for such."""
    zone = Zone({"mail.example.org": SPF, "_dmarc.example.org": 'TXT "v=DMARC1; p=reject; sp=none"'})

    found = look(Rig(zone=zone, wishes=Wishes(domains=("mail.example.org",), blocklist="")), "domains")

    assert told(found)[-1] == "ok mail.example.org: DMARC policy none (from example.org)"


def test_a_domain_that_does_not_exist_fails() -> None:
    """A slip in --domain or in the configuration."""
    found = look(Rig(wishes=Wishes(domains=("exmaple.org",), blocklist="")), "domains")

    assert told(found) == ["fail exmaple.org: does not exist in DNS; receivers refuse mail from it"]


def test_behind_a_smart_host_spf_is_only_read(tmp_path: Path) -> None:
    """Its address counts, which nobody here knows; a wrong record is still told."""
    made = rig(tmp_path, config='next_hop = "smtp.example.net"\n')

    assert levels(look(made, "domains")) == ["skip", "ok", "ok"]

    made.zone.set("example.org", 'TXT "v=spf1 +nonsense -all"')

    assert levels(look(made, "domains")) == ["fail", "ok", "ok"]


def test_an_unknown_outside_address_is_said(tmp_path: Path) -> None:
    """Behind NAT the operator can say it."""
    made = rig(tmp_path, on=machine(addresses=lambda: ("10.0.0.5",), route_to=lambda far: "10.0.0.5"))

    found = look(made, "domains")

    assert levels(found) == ["skip", "ok", "ok"]
    assert "--public-address" in found[0].cure


def test_no_domain_is_skipped_with_the_way_to_name_one() -> None:
    """Nothing in the configuration says whom we send for."""
    assert levels(look(Rig(), "domains")) == ["skip"]


def test_the_domains_are_those_of_keys_networks_routes_and_users(tmp_path: Path) -> None:
    """Wherever a sender is named, its domain is looked at; each once."""
    users = tmp_path / "users.toml"
    users.write_text('[alice]\nsenders = ["alice@users.example", "*"]\n[bob]\nsenders = ["@EXAMPLE.org"]\n')
    config = f"""
[auth]
users_file = "{users}"
[[network]]
networks = ["10.0.0.0/8"]
senders = ["@network.example", "*"]
[[route]]
senders = ["@route.example", "user:carol"]
next_hop = "smtp.example.net"
"""

    domains = sending_domains(rig(tmp_path, config=config).world.config)

    assert {"example.org", "network.example", "route.example", "users.example"} == set(domains)
    assert 4 == len(domains)
