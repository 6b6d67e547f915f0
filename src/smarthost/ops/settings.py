# SPDX-License-Identifier: MIT
"""`smarthost config check|show`, and how every command reads the configuration with its flags."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec.structs import replace

from smarthost.ops import exits, options
from smarthost.ops.diff import diff
from smarthost.ops.reload import locate, tell_errors

if TYPE_CHECKING:
    from smarthost.config import Config, Reading
    from smarthost.mail.errors import ConfigError
    from smarthost.mail.record import Record


def load(file: Path | None, given: Mapping[str, object]) -> "Config":
    """Read the configuration with the options of `options.over_config` over it.

    Raises: CommandFailed: with a line for each error.
    """
    from smarthost.config import read_config_file

    reading = read_config_file(file, options.flags_over_config(given), options.SPELLED)
    if reading.config is None:
        raise exits.CommandFailed("\n".join(tell_errors(reading, reading.errors)), exits.CONFIG)
    return reading.config


def reader(file: Path | None, given: Mapping[str, object]) -> "Callable[[str | None, str], Reading]":
    """Give what reads the configuration anew with the same options: (None, ""): its file; else a text and its name."""
    from smarthost.config import read_config, read_config_file

    flags = options.flags_over_config(given)

    def read(text: str | None, name: str) -> "Reading":
        if text is None:
            return read_config_file(file, flags, options.SPELLED)
        return read_config(text, flags, options.SPELLED, file=name)

    return read


@click.group()
def config() -> None:
    """Check the configuration, or show what holds."""


@config.command()
@options.over_config
@options.json_lines
def check(file: Path | None, *, as_json: bool, **given: object) -> int:
    """Say what is wrong with the configuration, all of it; exit 78 if anything is."""
    from smarthost.config import read_config_file

    reading = read_config_file(file, options.flags_over_config(given), options.SPELLED)
    warnings: list[str] = []
    if reading.config is not None and (errors := _bad_files(reading.config, warnings)):
        reading = replace(reading, config=None, errors=tuple([locate(reading, error) for error in errors]))
    if as_json:
        for error in reading.errors:
            finding = {"file": reading.file, "line": error.line, "key": error.key, "detail": error.detail}
            click.echo(msgspec.json.encode(finding).decode())
    else:
        for line in (*tell_errors(reading, reading.errors), *warnings):
            click.echo(line, err=True)
        if reading.config is not None:
            click.echo(f"{reading.file or 'the defaults (no file was read)'}: no errors")
            for line in _doubts(reading.config):
                click.echo(f"warning: {line}", err=True)
    return exits.OK if reading.config is not None else exits.CONFIG


def _doubts(config: "Config") -> "Iterator[str]":
    """Say what can be meant, and seldom is."""
    if config.relays_for_everyone:
        yield "relay_from lets everyone send mail through this host (an open relay)"
    if config.http.listen and config.http.tokens_file is None:
        yield (
            "http.listen without http.tokens_file: health and metrics are served, but nobody can log in to the page or "
            "use the API; set tokens_file and make one: smarthost tokens add NAME"
        )


class _Warnings:
    """A ports.Sink that keeps what a start would log, as lines."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def record(self, record: "Record") -> None:
        """Nothing happens to mail while files are looked at."""

    def note(self, level: str, what: str, **facts: object) -> None:
        told = ", ".join(f"{name} {value}" for name, value in facts.items())
        self._lines.append(f"{level}: {what}: {told}" if told else f"{level}: {what}")


def _bad_files(config: "Config", warnings: list[str]) -> "tuple[ConfigError, ...]":
    """Look into the files that a start would look into; what it would only log is added to `warnings`."""
    import asyncio

    from smarthost.backends.clock import SystemClock
    from smarthost.entrance import find_bad_files
    from smarthost.ops.readable import warn_of_open_passwords

    sink = _Warnings(warnings)
    warn_of_open_passwords(config, sink)

    async def look() -> "tuple[ConfigError, ...]":
        return tuple(find_bad_files(config, SystemClock(), sink))

    return asyncio.run(look())


@config.command()
@options.over_config
@options.json_lines
def show(file: Path | None, *, as_json: bool, **given: object) -> None:
    """Print the configuration that holds, defaults and options included, without passwords."""
    from smarthost.config import config_json, config_toml

    loaded = load(file, given)
    if as_json:
        click.echo(config_json(loaded).decode())
    else:
        click.echo(f"# read from {loaded.file or 'nowhere: these are the defaults'}")
        click.echo(config_toml(loaded), nl=False)


@config.command()
@click.option("--json-schema", "as_json", is_flag=True, help="As a JSON Schema, which editors use.")
@click.option("--markdown", "as_markdown", is_flag=True, help="As the tables of the manual.")
def schema(*, as_json: bool, as_markdown: bool) -> None:
    """Print every key that can be set, with what may be written, its default and its meaning."""
    from smarthost.config import schema as described

    if as_json and as_markdown:
        raise click.UsageError("choose --json-schema or --markdown")
    write = described.json_schema if as_json else described.all_markdown if as_markdown else described.text
    click.echo(write(), nl=False)


config.add_command(diff)
