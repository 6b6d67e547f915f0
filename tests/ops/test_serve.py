# SPDX-License-Identifier: MIT
"""`smarthost serve` as a process: ready, signals, start failures. The relay in it only remembers (tests/ops/rig.py)."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

pytestmark = pytest.mark.slow

RIG = [sys.executable, str(Path(__file__).with_name("rig.py"))]
ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}


def run(*arguments: str, content: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RIG, *arguments], input=content, capture_output=True, text=True, timeout=20, env=ENVIRON, check=False
    )


@contextmanager
def serving(state_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*RIG, "serve", "--state-dir", str(state_dir), "--next-hop", "localhost:26", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRON) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    stderr: IO[str] | None = process.stderr
    assert stderr is not None
    line: dict[str, Any] = json.loads(stderr.readline())
    return line


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    while (line := next_line(process))["what"] != "ready":
        pass
    return line


def test_the_ready_line_tells_where_and_who(tmp_path: Path) -> None:
    """Whoever starts the daemon learns the bound addresses, the process and the files from one line."""
    file = tmp_path / "smarthost.toml"
    file.write_text("[log]\nlevel = 'error'\n")

    with serving(
        tmp_path / "state", "--config", str(file), "--listen", "127.0.0.1:0", "--listen", "[::1]:26"
    ) as process:
        line = ready(process)

    assert line["listen"] == [["127.0.0.1", 40025], ["::1", 26]]
    assert (line["state_dir"], line["pid"]) == (str(tmp_path / "state"), process.pid)
    assert line["config"] == str(file)
    assert {"at", "level", "version", "hostname"} <= set(line)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(tmp_path: Path, which: signal.Signals) -> None:
    """systemd's stop and Ctrl-C end the daemon in order, and say so."""
    with serving(tmp_path) as process:
        ready(process)
        process.send_signal(which)
        told = [next_line(process)["what"], next_line(process)["what"]]
        code = process.wait(10)

    assert told == ["stopping", "stopped"]
    assert code == 0
    assert not (tmp_path / "control").exists()


def test_a_second_signal_ends_at_once_even_when_the_loop_is_stuck(tmp_path: Path) -> None:
    """An operator who presses Ctrl-C twice is obeyed whatever the daemon is busy with."""
    with serving(tmp_path, "--hostname", "stuck.example") as process:
        ready(process)
        process.send_signal(signal.SIGTERM)
        while next_line(process)["what"] != "stuck":
            pass
        process.send_signal(signal.SIGTERM)
        code = process.wait(10)

    assert code == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--hostname", "locked.example"], 73, "smarthost: another process owns the state directory\n"),
        (["--hostname", "broken.example"], 74, "smarthost: no space left on device\n"),
        (["--hostname", "busy.example"], 78, "smarthost: listen: cannot be bound: address already in use\n"),
        (
            ["--listen", "nowhere"],
            78,
            'smarthost: --listen: element 1: expected IP:PORT, got "nowhere" (the port is missing)\n',
        ),
        (["--config", "/nonexistent"], 78, "smarthost: /nonexistent: cannot be read: No such file or directory\n"),
    ],
)
def test_a_failed_start_is_one_line_and_its_exit_code(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """What keeps the daemon from starting is told in plain words, without a traceback."""
    ran = run("serve", "--state-dir", str(tmp_path), "--next-hop", "localhost:26", *arguments)

    assert (ran.returncode, ran.stderr, ran.stdout) == (code, said, "")


def test_an_open_relay_is_warned_about_at_each_start(tmp_path: Path) -> None:
    """Nobody runs an open relay without having been told."""
    with serving(tmp_path, "--relay-from", "0.0.0.0/0") as process:
        line = next_line(process)

    assert line["level"] == "warning"
    assert line["what"].startswith("open relay")
    assert line["relay_from"] == ["0.0.0.0/0"]


def test_a_password_that_everybody_may_read_is_warned_about_at_each_start(tmp_path: Path) -> None:
    """The log says so as for the users file, and mail goes on."""
    password, file = tmp_path / "password", tmp_path / "smarthost.toml"
    password.write_text("secret\n")
    password.chmod(0o644)
    hop = f'{{host = "127.0.0.1", username = "me", password_file = "{password}"}}'
    file.write_text(f'[[route]]\ndomains = ["a.example"]\nnext_hop = {hop}\n')

    with serving(tmp_path / "state", "--config", str(file)) as process:
        while (line := next_line(process))["what"] != "password file readable by everybody":
            assert line["what"] != "ready", "it was not warned about"

    assert (line["level"], line["file"], line["cure"]) == ("warning", str(password), f"chmod 600 {password}")


def test_a_bug_in_a_callback_is_a_line_of_the_log(tmp_path: Path) -> None:
    """What escapes into the event loop is told as JSON as everything else is, with its trace, and mail goes on."""
    with serving(tmp_path, "--hostname", "bug.example") as process:
        told = [next_line(process), next_line(process)]

    (bug,) = [line for line in told if line["what"] == "unexpected failure"]
    assert bug["level"] == "error"
    assert bug["why"] == "KeyError('a bug nobody foresaw')"
    assert any("call_soon" in line or "KeyError" in line for line in bug["trace"])


def test_a_daemon_serves_commands(tmp_path: Path) -> None:
    """The whole way: a message handed in by one process is taken by another."""
    with serving(tmp_path) as process:
        ready(process)
        sent = run("send", "--state-dir", str(tmp_path), "--from", "a@b.example", "--to", "c@d.example", content="x\n")
        listed = run("queue", "list", "--state-dir", str(tmp_path))
        mode = stat.S_IMODE((tmp_path / "control").stat().st_mode)

    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "0000000000000001\n", "")
    assert (listed.returncode, listed.stdout) == (0, "the queue is empty\n")
    assert mode == 0o600


def test_nobody_reading_the_log_does_not_hold_up_commands(tmp_path: Path) -> None:
    """With standard error full and unread, the daemon goes on."""
    with serving(tmp_path) as process:
        ready(process)
        for _ in range(3):
            huge = "x@" + "y" * 60_000 + ".example"
            run("send", "--state-dir", str(tmp_path), "--from", huge, "--to", "c@bug.example", content="x\n")
        sent = run("send", "--state-dir", str(tmp_path), "--from", "a@b.example", "--to", "c@d.example", content="x\n")

    assert sent.returncode == 0


def test_the_limit_of_open_files_is_raised() -> None:
    """A relay with a thousand sessions does not stop at the 1,024 files a login shell allows."""
    script = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 4096)))\n"
        "import sys, types; sys.modules['smarthost.assemble'] = types.SimpleNamespace(Relay=None)\n"
        "from smarthost.ops.daemon import raise_descriptor_limit\n"
        "limit = raise_descriptor_limit()\n"
        "print(limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 4096))\n"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)

    assert ran.stdout == "True\n"


def test_the_real_daemon_takes_its_directory_and_its_port_for_itself(tmp_path: Path) -> None:
    """A second daemon on the same directory, or on the same port, is told so; the first one goes on."""
    smarthost = [sys.executable, "-m", "smarthost"]
    arguments = ["--next-hop", "127.0.0.1:1", "--state-dir"]
    first = [*smarthost, "serve", "--listen", "127.0.0.1:0", *arguments, str(tmp_path / "first")]

    with subprocess.Popen(first, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = ready(process)
            taken = f"127.0.0.1:{line['listen'][0][1]}"
            same_directory, same_port = (
                subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
                for command in (first, [*smarthost, "serve", "--listen", taken, *arguments, str(tmp_path / "second")])
            )
            listed = subprocess.run(
                [*smarthost, "queue", "list", "--state-dir", str(tmp_path / "first")],
                capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            process.send_signal(signal.SIGTERM)
            code = process.wait(10)
        finally:
            process.kill()

    assert same_directory.returncode == 73
    assert f"{tmp_path}/first is in use by process {process.pid}" in same_directory.stderr
    assert same_port.returncode == 78
    assert f"cannot listen on {taken}" in same_port.stderr
    assert (listed.returncode, listed.stdout) == (0, "the queue is empty\n")
    assert code == 0
