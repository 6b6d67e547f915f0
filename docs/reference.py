# SPDX-License-Identifier: MIT
"""The parts of the site that are made of the code: commands, metrics, records, exit codes, the Python API.

Each function gives Markdown and is named in a page by `<!-- generated: NAME -->`; conf.py calls it. Nothing is written.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

import smarthost
from smarthost.mail.record import TERMINAL_KINDS, Kind, Record
from smarthost.ops import manual
from smarthost.ops.cli import cli
from smarthost.ops.metrics_table import METRICS, PREFIX

ROOT = Path(__file__).parents[1]


def commands() -> str:
    """Give every command with what its --help says."""
    sections = []
    for ctx in _walk(cli, None, "smarthost"):
        if isinstance(ctx.command, click.Group) and not ctx.command.invoke_without_command:
            continue
        usage = " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])
        lines = [f"## {ctx.command_path}", "", "```", usage, "```", "", *_prose(ctx.command), ""]
        options = [each.get_help_record(ctx) for each in ctx.command.get_params(ctx)]
        told = [(_code(names), _cell(text)) for names, text in filter(None, options) if text]
        sections.append("\n".join([*lines, _table(("option", "does"), told)]))
    return "\n\n".join(sections)


def exits() -> str:
    """Give the exit codes, as smarthost(1) has them."""
    return _table(("code", "meaning"), [(_code(code), _cell(text)) for code, text in manual._EXITS])


def metrics() -> str:
    """Give the metrics, under the names that Prometheus reads."""
    rows = []
    for name, metric in METRICS.items():
        full = f"{PREFIX}{name}{'_total' if metric.kind == 'counter' else ''}"
        rows.append((_code(full), metric.kind, " ".join(map(_code, metric.labels)), _cell(metric.told)))
    return _table(("metric", "kind", "labels", "meaning"), rows)


def kinds() -> str:
    """Give the kinds of record; which are a recipient's last."""
    rows = [(_code(kind.value), "yes" if kind in TERMINAL_KINDS else "") for kind in Kind]
    return _table(("kind", "ends a recipient"), rows)


def fields() -> str:
    """Give the fields of a record in the order in which they are written."""
    shown = {"at": "ISO 8601, UTC", "next_attempt_at": "ISO 8601, UTC"}
    rows = []
    for name, kind in inspect.get_annotations(Record).items():
        if name != "seq":  # told as the cursor
            rows.append((_code(name), shown.get(name) or _json_type(kind)))
    return _table(("field", "JSON"), rows)


def library() -> str:
    """Give the Python API: each name that the package exports, by autodoc."""
    lines = ["```{eval-rst}"]
    for name in smarthost.__all__:
        value = getattr(smarthost, name)
        directive = "autoexception" if issubclass(value, Exception) else "autoclass"
        lines += [f".. {directive}:: smarthost.{name}", "   :members:", ""]
    return "\n".join([*lines, "```"])


def architecture() -> str:
    """Give ARCHITECTURE.md as a page of the site, without its heading."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("\n")[2]
    return text.replace("](docs/", "](")


def _walk(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    ctx = click.Context(command, info_name=name, parent=parent)
    yield ctx
    if isinstance(command, click.Group):
        for below in command.list_commands(ctx):
            inner = command.get_command(ctx, below)
            if inner is not None and not inner.hidden:
                yield from _walk(inner, ctx, below)


def _prose(command: click.Command) -> Iterable[str]:
    for paragraph in inspect.cleandoc(command.help or "").split("\f")[0].strip().split("\n\n"):
        if paragraph.startswith("\b"):
            yield "\n".join(["```", *paragraph.lstrip("\b\n").splitlines(), "```", ""])
        else:
            yield " ".join(paragraph.split()).replace("<", "\\<") + "\n"


def _json_type(kind: object) -> str:
    if kind in (str, Kind):
        return "text"
    if kind is bool:
        return "true or false"
    return "number" if kind in (int, float) else "array of texts"


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *["| " + " | ".join(row) + " |" for row in rows]])
