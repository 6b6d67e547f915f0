# SPDX-License-Identifier: MIT
"""`smarthost completion SHELL`, and what completes a message's id: the queue of the daemon that the line names.

Whoever presses Tab waits at most a second, and is never told of an error: then there is nothing to offer.
"""

from itertools import islice
from pathlib import Path

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

IDS = 50  # offered at most; a longer list helps nobody
LOOKED_AT = 2_000  # messages, oldest first
ANSWER_S = 1.0
_VARIABLE = "_SMARTHOST_COMPLETE"  # click's name for a program "smarthost"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and message ids.

    bash: smarthost completion bash > /etc/bash_completion.d/smarthost

    zsh: smarthost completion zsh > /usr/local/share/zsh/site-functions/_smarthost

    fish: smarthost completion fish > /etc/fish/completions/smarthost.fish
    """
    from smarthost.ops.cli import cli

    found = get_completion_class(shell)
    assert found is not None, "click has one for each of these"
    click.echo(ShellComplete.source(found(cli, {}, "smarthost", _VARIABLE)))  # not its own: bash's runs bash to ask it


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer ids of queued messages that begin so, each with its reverse-path as what it is about."""
    from smarthost.config import find_state_dir
    from smarthost.mail.errors import SmarthostError
    from smarthost.ops import words
    from smarthost.ops.client import ask
    from smarthost.ops.exits import CommandFailed
    from smarthost.ops.verbs import Found, QueueFind

    file = ctx.params.get("file")
    offered = []
    try:
        state_dir = find_state_dir(ctx.params.get("state_dir"), file if isinstance(file, Path) else None)
        for answer in islice(ask(state_dir, QueueFind(), answer_s=ANSWER_S), LOOKED_AT):
            if isinstance(answer, Found) and answer.message.id.startswith(incomplete):
                offered.append(CompletionItem(answer.message.id, help=words.path_words(answer.message.reverse_path)))
                if len(offered) == IDS:
                    break
    except (CommandFailed, SmarthostError, OSError):
        return []
    return offered
