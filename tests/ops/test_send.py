# SPDX-License-Identifier: MIT
"""`smarthost send`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ops.rig import FakeQueue, running

from smarthost.ops import cli, exits
from smarthost.ops.send import as_lines


def run(state_dir: Path, *arguments: str, content: bytes = b"Subject: x\n\nhello\n") -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["send", "--state-dir", str(state_dir), *arguments], input=content)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\r\nb\nc", b"a\r\nb\r\nc\r\n"),
        (b"\n.\n\n", b"\r\n.\r\n\r\n"),
        (b"a\rb\n", b"a\rb\r\n"),
        (b"a\r\r\n", b"a\r\r\n"),
        (b"\xff\x00\n", b"\xff\x00\r\n"),
    ],
)
def test_line_ends_become_crlf_and_nothing_else_changes(written: bytes, lines: bytes) -> None:
    """A text file is a message; a bare CR is left for the relay to refuse."""
    assert as_lines(written) == lines


def test_a_message_is_filed_and_its_id_printed(tmp_path: Path) -> None:
    """The id is all there is on standard output, so that a script can keep it."""
    with running(tmp_path, FakeQueue()) as queue:
        ended = run(tmp_path, "--from", "a@b.example", "--to", "c@d.example", "--to", "<e@f.example>")

    assert ended == (0, "0000000000000001\n", "")
    assert queue.sent == [(b"Subject: x\r\n\r\nhello\r\n", "a@b.example", ("c@d.example", "e@f.example"))]


def test_json_has_the_id(tmp_path: Path) -> None:
    """--json prints an object."""
    with running(tmp_path, FakeQueue()):
        _, out, _ = run(tmp_path, "--from", "a@b.example", "--to", "c@d.example", "--json")

    assert json.loads(out) == {"id": "0000000000000001"}


@pytest.mark.parametrize("null", ["<>", ""])
def test_the_null_reverse_path_can_be_said(tmp_path: Path, null: str) -> None:
    """Reports are sent with `--from '<>'`."""
    with running(tmp_path, FakeQueue()) as queue:
        run(tmp_path, "--from", null, "--to", "c@d.example")

    assert [reverse_path for _, reverse_path, _ in queue.sent] == [""]


@pytest.mark.parametrize(
    ("recipient", "code", "said"),
    [
        ("x@refused.example", exits.UNAVAILABLE, "refused: 550 5.7.1 Not for you"),
        ("x@broken.example", exits.TEMPORARY, "the store cannot do that now: the disk is full"),
        ("\udcff@x.example", exits.BAD_INPUT, "not an address: '\\udcff@x.example' is not UTF-8"),
    ],
)
def test_a_refused_message_ends_with_the_reason(tmp_path: Path, recipient: str, code: int, said: str) -> None:
    """The exit code says whether to try again, the line says why."""
    with running(tmp_path, FakeQueue()):
        assert run(tmp_path, "--from", "a@b.example", "--to", recipient) == (code, "", f"smarthost: {said}\n")


def test_an_empty_standard_input_is_no_message(tmp_path: Path) -> None:
    """A pipe that broke before it does not send empty mail."""
    with running(tmp_path, FakeQueue()) as queue:
        code, _, said = run(tmp_path, "--from", "a@b.example", "--to", "c@d.example", content=b"")

    assert (code, said, queue.sent) == (exits.NO_INPUT, "smarthost: standard input holds no message\n", [])


def test_without_a_daemon_send_is_69(tmp_path: Path) -> None:
    """Nothing is accepted that nobody keeps."""
    code, out, said = run(tmp_path, "--from", "a@b.example", "--to", "c@d.example")

    assert (code, out) == (exits.UNAVAILABLE, "")
    assert f"no daemon answers at {tmp_path}/control" in said


def test_the_daemon_is_found_by_the_configuration(tmp_path: Path) -> None:
    """--config names the daemon as well as --state-dir does."""
    (tmp_path / "smarthost.toml").write_text(f"state_dir = '{tmp_path}'\n")

    with running(tmp_path, FakeQueue()) as queue:
        arguments = [
            "send",
            "--config",
            str(tmp_path / "smarthost.toml"),
            "--from",
            "a@b.example",
            "--to",
            "c@d.example",
        ]
        CliRunner().invoke(cli.cli, arguments, input=b"x")

    assert len(queue.sent) == 1
