# SPDX-License-Identifier: MIT
"""Options that several commands share: where the daemon is, which recipients, what is laid over the file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from smarthost.ops.completion import complete_id

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)

# option of `serve` -> (dotted key of the configuration, as an error calls it)
_FLAGS: Mapping[str, tuple[str, str]] = {
    "listen": ("listen", "--listen"),
    "state_dir": ("state_dir", "--state-dir"),
    "hostname": ("hostname", "--hostname"),
    "next_hop": ("next_hop", "--next-hop"),
    "dns": ("dns.servers", "--dns"),
    "mx_port": ("mx.port", "--mx-port"),
    "allow_private": ("mx.allow_private", "--allow-private"),
    "relay_from": ("relay_from", "--relay-from"),
}
SPELLED: Mapping[str, str] = dict(_FLAGS.values())


def _stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_config = click.option("--config", "file", type=_FILE, help="Configuration file [/etc/smarthost/smarthost.toml].")
_state_dir = click.option("--state-dir", metavar="DIR", help="Where the daemon keeps its mail.")
json_lines = click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")

place = _stacked(_state_dir, _config)

over_config = _stacked(
    _config,
    click.option("--listen", metavar="IP:PORT", multiple=True, help="Take mail here [127.0.0.1:2525]; repeat it."),
    _state_dir,
    click.option("--hostname", metavar="NAME", help="Our name in EHLO and Received."),
    click.option("--next-hop", metavar="HOST[:PORT]", help="Send everything to this host instead of by MX."),
    click.option(
        "--dns", metavar="IP[:PORT]", multiple=True, help="Ask this name server [/etc/resolv.conf]; repeat it."
    ),
    click.option("--mx-port", metavar="N", type=int, help="Connect to exchangers at this port [25]."),
    click.option("--allow-private", is_flag=True, help="Exchangers may have loopback and private addresses."),
    click.option(
        "--relay-from",
        metavar="CIDR",
        multiple=True,
        help="Network that may send mail through us [loopback]; repeat it.",
    ),
)

which = _stacked(
    click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_id),
    click.option("--id", "id", metavar="ID", shell_complete=complete_id, help="Of this message."),
    click.option("--from", "reverse_path", metavar="ADDRESS", help="With this reverse-path; <> for reports."),
    click.option("--to", "recipient", metavar="ADDRESS", help="For this recipient."),
    click.option("--destination", metavar="DOMAIN", help="For recipients in this domain."),
    click.option(
        "--sender",
        metavar="NAME",
        help="Of who logged in (ann, user:ann), else of this reverse-path, client, or @DOMAIN.",
    ),
    click.option("--lane", metavar="LANE", help="That this lane would carry (smarthost plan names it)."),
    click.option("--reply", metavar="TEXT", help="Whose last reply, or reason, has this text in it."),
    click.option("--state", type=click.Choice(["deferred", "held"]), help="In this state."),
    click.option("--older", metavar="TIME", help="Received longer ago than this: 90s, 30m, 12h, 2d."),
)
reason = click.option("--reason", metavar="TEXT", default="", help="Why; it is kept with what was done.")


def flags_over_config(given: Mapping[str, object]) -> dict[str, object]:
    """Give what the options of `over_config` lay over the file: dotted key -> raw value, only what was said."""
    flags: dict[str, object] = {}
    for name, (key, _) in _FLAGS.items():
        value = given.get(name)
        if value is not None and value != () and value is not False:
            flags[key] = list(value) if isinstance(value, tuple) else value
    return flags
