# SPDX-License-Identifier: MIT
"""Check `domains`: do the DNS records of each domain we send for agree with us: SPF, DKIM, DMARC?

The domains are those of the configuration (DKIM keys, networks' senders, routes, users) and those of --domain. What a
receiver would look up is looked up, and judged for our own addresses and keys. Changes nothing.
"""

import base64
import binascii
from functools import partial
from pathlib import Path

from smarthost.mail.errors import ConfigError
from smarthost.ops.doctor.configuration import sending_domains
from smarthost.ops.doctor.findings import Findings, side_by_side
from smarthost.ops.doctor.spf import LOOKUPS, SpfResult, evaluate_spf
from smarthost.ops.doctor.world import Outgoing, World, aside, outgoing, speakers
from smarthost.ports import Answer, AnswerStatus

MOST = 50
_ABSENT = (AnswerStatus.NODATA, AnswerStatus.NXDOMAIN)
_RSA_BITS_SOUND = 2048  # RFC 8301 3.2
_RESOLVER = "see the lines about the resolver"


async def check_domains(world: World, told: Findings) -> None:
    """Judge all domains at the same time."""
    known = await aside(lambda: sending_domains(world.config))
    domains = tuple(dict.fromkeys((*world.wishes.domains, *known)))
    if not domains:
        told.skip("nothing says which domains mail is sent for", "name them with --domain, or sign with [[dkim]]")
        return
    seen = await outgoing(world)
    await side_by_side(told, [partial(_judge_domain, world, domain, seen) for domain in domains[:MOST]])
    if len(domains) > MOST:
        told.skip(f"{len(domains) - MOST} further domains were not looked at", "name them with --domain")


async def _judge_domain(world: World, domain: str, seen: tuple[Outgoing, ...], told: Findings) -> None:
    answer = await world.resolver.ask(domain, "TXT")
    if answer.status is AnswerStatus.NXDOMAIN:
        told.fail(
            f"{domain}: does not exist in DNS; receivers refuse mail from it", "register it, or do not send for it"
        )
        return
    if answer.status not in (AnswerStatus.FOUND, AnswerStatus.NODATA):
        told.warn(f"{domain}: DNS does not say: {_said(answer)}", _RESOLVER)
        return
    await side_by_side(
        told,
        [
            partial(_judge_spf, world, domain, seen),
            partial(_judge_dkim, world, domain),
            partial(_judge_dmarc, world, domain),
        ],
    )


# -- SPF ---------------------------------------------------------------------------------------------------------------


async def _judge_spf(world: World, domain: str, seen: tuple[Outgoing, ...], told: Findings) -> None:
    hostname = world.config.hostname
    addresses = [each.address for each in seen if each.address]
    if not addresses:  # its own sake is still worth a look: 192.0.2.1 (RFC 5737) is nobody's
        result = await evaluate_spf(world.resolver, domain, "192.0.2.1", hostname)
        if result.result in ("none", "permerror", "temperror"):
            _tell_spf(domain, "", result, told)
        elif not speakers(world.config):
            told.skip(
                f"{domain}: has an SPF record; whether it covers the smart host cannot be seen here",
                "its provider says what to include",
            )
        else:
            told.skip(f"{domain}: has an SPF record, but our outside address is unknown", "say --public-address")
        return
    for address in dict.fromkeys(addresses):
        _tell_spf(domain, address, await evaluate_spf(world.resolver, domain, address, hostname), told)


def _tell_spf(domain: str, address: str, result: SpfResult, told: Findings) -> None:
    mechanism = f"ip6:{address}" if ":" in address else f"ip4:{address or 'ADDRESS'}"
    add = f"add {mechanism} to the SPF record of {domain}, before its all"
    match result.result:
        case "pass":
            told.ok(f"{domain}: SPF passes for {address}, by {result.why}")
            if result.lookups > LOOKUPS - 2:
                told.warn(
                    f"{domain}: its SPF record takes {result.lookups} of {LOOKUPS} lookups until it passes",
                    "replace an include by its networks before the next one breaks it",
                )
        case "fail" | "softfail":
            told.fail(f"{domain}: SPF says {result.result} for {address}, by {result.why}", add)
        case "neutral":
            told.warn(f"{domain}: SPF says nothing about {address} ({result.why})", add)
        case "none":
            told.warn(
                f"{domain}: has no SPF record; Gmail and others refuse or junk mail without SPF or DKIM",
                f'publish at {domain}: TXT "v=spf1 {mechanism} -all"',
            )
        case "permerror":
            told.fail(f"{domain}: its SPF record is wrong: {result.why}", "correct it: as it is, receivers ignore it")
        case _:
            told.warn(f"{domain}: SPF cannot be evaluated now: {result.why}", _RESOLVER)


# -- DKIM --------------------------------------------------------------------------------------------------------------


async def _judge_dkim(world: World, domain: str, told: Findings) -> None:
    sections = [each for each in world.config.dkim if domain in each.domains]
    if not sections:
        told.warn(
            f"{domain}: we do not sign its mail",
            "if nobody before us does: `smarthost dkim keygen` makes a key, [[dkim]] uses it",
        )
    for section in sections:
        wanted = await aside(partial(_expected, section.key_file))
        if wanted:  # else the check of the configuration says what is wrong with the file
            name = f"{section.selector}._domainkey.{domain}"
            _tell_dkim(name, wanted, section.key_file, await world.resolver.ask(name, "TXT"), told)


def _expected(file: Path) -> str:
    from smarthost.backends.keyring import load_key
    from smarthost.ops.dkim import record

    try:
        return record(load_key(file))
    except ConfigError:
        return ""


def _tell_dkim(name: str, wanted: str, file: Path, answer: Answer, told: Findings) -> None:
    publish = "`smarthost dkim show` prints the record to publish"
    if answer.status not in (AnswerStatus.FOUND, *_ABSENT):
        told.warn(f"{name}: DNS does not say: {_said(answer)}", _RESOLVER)
        return
    records = [tags for text in answer.texts if (tags := _tags(text)).get("p") is not None]
    if not records:
        told.fail(f"{name}: no key is published, but we sign with {file}; receivers see a broken signature", publish)
    elif len(records) > 1:
        told.fail(f"{name}: {len(records)} keys are published under one name; receivers may take either", publish)
    elif not records[0]["p"]:
        told.fail(f"{name}: the published key is revoked (p= is empty), but we sign with {file}", publish)
    elif records[0]["p"] != _tags(wanted)["p"]:
        told.fail(f"{name}: the published key is not that of {file}; every signature of ours fails", publish)
    elif records[0].get("k", "rsa") != _tags(wanted).get("k", "rsa"):
        told.fail(f"{name}: k={records[0].get('k', 'rsa')} is published, but the key is another kind", publish)
    elif "y" in records[0].get("t", "").split(":"):
        told.warn(f"{name}: the key is published as a test (t=y): receivers may ignore it", "remove t=y")
    else:
        told.ok(f"{name}: the published key is that of {file}")
        bits = _rsa_bits(records[0])
        if bits and bits < _RSA_BITS_SOUND:
            told.warn(f"{name}: an RSA key of {bits} bits", f"make a new one of {_RSA_BITS_SOUND} (RFC 8301)")


def _tags(text: str) -> dict[str, str]:
    """Read a tag list (RFC 6376 3.2); white space within values does not count. v= is not asked for (3.6.1)."""
    pairs = [each.partition("=") for each in text.split(";")]
    return {name.strip(): "".join(value.split()) for name, equals, value in pairs if equals}


def _rsa_bits(tags: dict[str, str]) -> int:
    """Give the size of a published RSA key, 0 where it is none."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    if tags.get("k", "rsa") != "rsa":
        return 0
    try:
        key = load_der_public_key(base64.b64decode(tags["p"], validate=True))
    except (ValueError, binascii.Error):
        return 0
    return key.key_size if isinstance(key, RSAPublicKey) else 0


# -- DMARC -------------------------------------------------------------------------------------------------------------


async def _judge_dmarc(world: World, domain: str, told: Findings) -> None:
    """Walk up from the domain to where a policy stands (RFC 9989's tree walk, without its cut for very long names)."""
    labels = domain.split(".")
    for start in range(max(1, len(labels) - 1)):
        name = ".".join(labels[start:])
        answer = await world.resolver.ask(f"_dmarc.{name}", "TXT")
        if answer.status not in (AnswerStatus.FOUND, *_ABSENT):
            told.warn(f"_dmarc.{name}: DNS does not say: {_said(answer)}", _RESOLVER)
            return
        records = [text for text in answer.texts if _tags(text).get("v", "").upper() == "DMARC1"]
        if records:
            _tell_dmarc(domain, name, records, told)
            return
    told.warn(
        f"{domain}: has no DMARC policy; Gmail and Yahoo ask for one from whoever sends much",
        f'publish at _dmarc.{domain}: TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
    )


def _tell_dmarc(domain: str, name: str, records: list[str], told: Findings) -> None:
    tags = _tags(records[0])
    policy = tags.get("p", "").lower() if name == domain else tags.get("sp", tags.get("p", "")).lower()
    where = "" if name == domain else f" (from {name})"
    if len(records) > 1:
        told.fail(f"_dmarc.{name}: {len(records)} records; receivers then ignore all of them", "leave one")
    elif policy not in ("none", "quarantine", "reject"):
        told.fail(
            f"_dmarc.{name}: no policy in it that receivers know: {records[0]}", "say p=none, quarantine or reject"
        )
    else:
        told.ok(f"{domain}: DMARC policy {policy}{where}")


def _said(answer: Answer) -> str:
    return answer.detail or answer.status.value
