# SPDX-License-Identifier: MIT
"""Man pages: those of the commands from the command line itself, those of files and other programs from docs/.

`python -m smarthost.ops.manual DOCS TARGET` (make man) writes them all into TARGET. Nothing of it runs in the daemon.
A command's page is what its --help says, so that neither can be forgotten; whatever docs/ has more is named there.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click

from smarthost.ops import roff
from smarthost.ops.exits import CommandFailed

# page -> (the file in docs/ that it is made of, what NAME says); a file that is not there makes no page
_FROM_DOCS: Mapping[str, tuple[str, str]] = {
    "smarthost.toml.5": ("configuration.md", "configuration of the smarthost mail relay"),
    "smarthost-sendmail.8": ("sendmail.md", "hand mail to smarthost as sendmail, mailq and newaliases do"),
}
_FILES = (
    ("/etc/smarthost/smarthost.toml", "the configuration, see smarthost.toml(5)"),
    ("/var/lib/smarthost", "the queue, and the control socket by which commands reach the daemon"),
)
_VARIABLES = (
    ("STATE_DIRECTORY", "The state directory, where neither option nor file names one; systemd sets it."),
    ("CREDENTIALS_DIRECTORY", "Where $CREDENTIALS_DIRECTORY/NAME in the configuration is; systemd sets it."),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Listening sockets that a service manager passes to serve."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "The service manager that serve tells how it is."),
    ("SMARTHOST_REQUIRE_VOLUME", "1: serve does not start on a file system that goes with its container or the power."),
)
_EXITS = (
    ("0", "It is done."),
    ("1", "doctor: something failed; config diff: there are changes."),
    ("64", "The command line is wrong."),
    ("65", "What was given is wrong: an address, a message."),
    ("66", "There is no such file or message."),
    ("68", "plan: mail for this address would bounce."),
    ("69", "Nobody is there, or it is refused."),
    ("70", "A bug of smarthost; please report it."),
    ("73, 74", "Something cannot be made, or the disk is in trouble."),
    ("75", "Not now: try again."),
    ("77", "You may not."),
    ("78", "The configuration is wrong."),
    ("130", "Interrupted."),
)


def write_pages(cli: click.Group, docs: Path, target: Path) -> list[Path]:
    """Write all pages; gives their files. Raises: OSError."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages(cli, docs).items():
        file = target / name
        file.write_text(text, "ascii")
        written.append(file)
    return written


def pages(cli: click.Group, docs: Path) -> dict[str, str]:
    """Give each page's text by its file name."""
    made = {"smarthost.1": _overview(cli)}
    for name, command in _visible(cli):
        made[f"smarthost-{name}.1"] = _command_page(name, command)
    for page, (file, purpose) in _FROM_DOCS.items():
        if (docs / file).exists():
            made[page] = _docs_page(page, purpose, (docs / file).read_text("utf-8"))
    return made


def _visible(group: click.Group, ctx: click.Context | None = None) -> Iterator[tuple[str, click.Command]]:
    """Give what --help lists, in its order."""
    ctx = ctx or click.Context(group, info_name=group.name)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and not command.hidden:
            yield name, command


def _source() -> str:
    return f"smarthost {version('smarthost')}"


def _page(name: str, section: int, purpose: str, body: list[str]) -> str:
    head = [roff.title(name, section, _source()), roff.heading("name", 1), f"{roff.escape(name)} \\- {purpose}"]
    lines = ['.\\" SPDX-License-Identifier: MIT', *head, *body]
    return "\n".join(lines) + "\n"


def _overview(cli: click.Group) -> str:
    ctx = click.Context(cli, info_name="smarthost")
    listed = [line for name, each in _visible(cli) for line in _short(name, each)]
    body = [
        *_synopsis(cli, ctx),
        roff.heading("description", 1),
        *_prose(cli),
        roff.heading("commands", 1),
        *listed,
        *_options(cli, ctx),
        *_list("exit status", _EXITS),
        *_list("environment", _VARIABLES),
        *_list("files", _FILES),
        *_see_also([f"smarthost-{name}(1)" for name, _ in _visible(cli)] + ["smarthost.toml(5)"]),
    ]
    return _page("smarthost", 1, roff.escape(_first_words(cli)), body)


def _list(name: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    lines = [line for tag, text in entries for line in roff.tagged(roff.bold(tag), [roff.escape(text)])]
    return [roff.heading(name, 1), *lines]


def _short(name: str, command: click.Command) -> list[str]:
    return roff.tagged(f"{roff.bold(f'smarthost-{name}')}(1)", [roff.escape(command.get_short_help_str(200))])


def _command_page(name: str, command: click.Command) -> str:
    parent = click.Context(click.Group("smarthost"), info_name="smarthost")
    ctx = click.Context(command, info_name=name, parent=parent)
    body = [*_synopsis(command, ctx), roff.heading("description", 1), *_prose(command), *_options(command, ctx)]
    if isinstance(command, click.Group):
        for below, each in _visible(command, ctx):
            inner = click.Context(each, info_name=below, parent=ctx)
            body += [roff.heading(f"{name} {below}", 1), *_usage(each, inner), *_prose(each), *_options(each, inner, 2)]
    body += _see_also(["smarthost(1)", "smarthost.toml(5)"])
    return _page(f"smarthost-{name}", 1, roff.escape(_first_words(command)), body)


def _docs_page(page: str, purpose: str, text: str) -> str:
    name, _, section = page.rpartition(".")
    first, newline, rest = text.partition("\n## ")
    body = [roff.heading("description", 1), *roff.from_markdown(first), *roff.from_markdown(newline + rest)]
    return _page(name, int(section), roff.escape(purpose), [*body, *_see_also(["smarthost(1)"])])


def _first_words(command: click.Command) -> str:
    """Give what a command does, as NAME has it: no capital, no full stop."""
    words = command.get_short_help_str(200).rstrip(".")
    return words[:1].lower() + words[1:]


def _synopsis(command: click.Command, ctx: click.Context) -> list[str]:
    lines = [roff.heading("synopsis", 1), *_usage(command, ctx)]
    if isinstance(command, click.Group) and ctx.parent is not None:
        for name, each in _visible(command, ctx):
            lines += [".br", *_usage(each, click.Context(each, info_name=name, parent=ctx))[1:]]
    return lines


def _usage(command: click.Command, ctx: click.Context) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    return [".PP", f"{roff.bold(ctx.command_path)} {roff.escape(pieces)}"]


def _prose(command: click.Command) -> list[str]:
    """Give the help text: paragraphs filled, those that click leaves alone (after \\b) as they are."""
    lines: list[str] = []
    for paragraph in (command.help or "").split("\f")[0].strip().split("\n\n"):
        if paragraph.startswith("\b"):
            lines += roff.code(paragraph.lstrip("\b\n").splitlines())
        else:
            lines += [".PP", roff.escape(" ".join(paragraph.split()))]
    return lines


def _options(command: click.Command, ctx: click.Context, level: int = 1) -> list[str]:
    records = [each.get_help_record(ctx) for each in command.get_params(ctx)]
    told = [(names, text) for names, text in filter(None, records) if text]  # an argument's name is in the synopsis
    lines = [line for names, text in told for line in roff.tagged(roff.bold(names), [roff.escape(text)])]
    return [roff.heading("Options", level), *lines]


def _see_also(others: list[str]) -> list[str]:
    listed = [f"{roff.bold(name)}({rest}" for name, _, rest in (each.partition("(") for each in others)]
    return [roff.heading("see also", 1), ",\n".join(listed)]


def main(arguments: list[str]) -> None:
    """Write the pages. Raises: CommandFailed: wrong arguments."""
    from smarthost.ops.cli import cli

    if len(arguments) != 2:
        raise CommandFailed("usage: python -m smarthost.ops.manual DOCS TARGET", 64)
    for file in write_pages(cli, *map(Path, arguments)):
        click.echo(file)


if __name__ == "__main__":
    main(sys.argv[1:])
