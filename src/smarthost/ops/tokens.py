# SPDX-License-Identifier: MIT
"""`smarthost tokens add|list|remove`: who may use the API and the page.

Works on the tokens file itself, whether a daemon runs or not; it takes a change up within a second or so. The file is
found without reading the whole configuration, which may be wrong as long as the file does not exist.
"""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import click

from smarthost.ops import exits, options, words

_SCOPES = ("read", "inject", "operate", "content")
_DEFAULT_CONFIG = Path("/etc/smarthost/smarthost.toml")

_place = options._stacked(
    click.option(
        "--config", "config", type=options._FILE, help="Configuration file whose [http] tokens_file is meant."
    ),
    click.option("--file", "file", type=options._FILE, help="The tokens file itself."),
)


@click.group()
def tokens() -> None:
    """Make and remove tokens for the API and the page."""


@tokens.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(_SCOPES),
    help="What it may do [read]; repeat it. operate and content include read.",
)
@_place
@options.json_lines
def add(name: str, scopes: tuple[str, ...], config: Path | None, file: Path | None, *, as_json: bool) -> None:
    """Make a token and print it: this is the only time that it is shown."""
    from smarthost.ops.http.tokens import add_token, read_scopes

    place = _find(config, file)
    try:
        secret = add_token(place, name, read_scopes(scopes or ("read",)), _now())
    except ValueError as error:
        raise exits.CommandFailed(str(error), exits.BAD_INPUT) from None
    except OSError as error:
        raise exits.CommandFailed(f"{place} cannot be written: {error.strerror}", exits.CANNOT_CREATE) from None
    if as_json:
        click.echo(words.json_line({"name": name, "scopes": list(scopes or ("read",)), "token": secret}))
        return
    click.echo(secret)
    click.echo(f"smarthost: token {name} added to {place}; it is not shown again", err=True)


@tokens.command("list")
@_place
@options.json_lines
def list_(config: Path | None, file: Path | None, *, as_json: bool) -> None:
    """List the tokens: names and scopes, never the tokens."""
    from smarthost.ops.http.tokens import read_tokens

    found = read_tokens(_find(config, file))
    rows = [(token.name, sorted(scope.value for scope in token.scopes)) for token in found]
    if as_json:
        for name, scopes in rows:
            click.echo(words.json_line({"name": name, "scopes": scopes}))
        return
    table = [("NAME", "SCOPES"), *((name, ", ".join(scopes)) for name, scopes in rows)]
    click.echo("\n".join(words.aligned(table, words.fitting(table, (4,)))) if rows else "there are no tokens")


@tokens.command()
@click.argument("name")
@_place
def remove(name: str, config: Path | None, file: Path | None) -> None:
    """Remove a token; whoever uses it is refused from then on."""
    from smarthost.ops.http.tokens import remove_token

    place = _find(config, file)
    try:
        is_gone = remove_token(place, name)
    except OSError as error:
        raise exits.CommandFailed(f"{place} cannot be written: {error.strerror}", exits.CANNOT_CREATE) from None
    if not is_gone:
        raise exits.CommandFailed(f"there is no token {words.printable(name)} in {place}", exits.NO_INPUT)
    click.echo(f"removed: {name}")


def _find(config: Path | None, file: Path | None) -> Path:
    """Give the tokens file. Raises: CommandFailed: nothing says which."""
    if file is not None:
        return file
    place = config or _DEFAULT_CONFIG
    try:
        tables = tomllib.loads(place.read_text("utf-8"))
    except OSError as error:
        cure = "say which: --file FILE, or --config FILE"
        raise exits.CommandFailed(f"{place} cannot be read: {error.strerror}; {cure}", exits.NO_INPUT) from None
    except ValueError as error:
        raise exits.CommandFailed(f"{place} is not TOML: {error}", exits.CONFIG) from None
    section = tables.get("http")
    named = section.get("tokens_file") if isinstance(section, dict) else None
    if not isinstance(named, str) or not named:
        raise exits.CommandFailed(f"{place} has no tokens_file in [http]: set it, or say --file FILE", exits.CONFIG)
    return Path(named).expanduser()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
