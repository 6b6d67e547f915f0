# SPDX-License-Identifier: MIT
"""The Containerfile: what it copies is there, what it promises holds, and its build steps run, in a scratch root."""

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.interop.programs import require
from tests.ops.service_manager import managed

from smarthost.config import read_config_file
from smarthost.config.surroundings import default_state_dir
from smarthost.ops.daemon import GRACE_S
from smarthost.ops.volatile import VARIABLE

ROOT = Path(__file__).parents[2]
HOME = ROOT / "packaging/container"


class Step(NamedTuple):
    """One instruction of a Containerfile, and which stage it is of."""

    stage: int
    verb: str
    words: str


def steps() -> list[Step]:
    """Read the Containerfile: comments gone, continued lines joined."""
    lines = (HOME / "Containerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    found: list[Step] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            verb, _, words = line.strip().partition(" ")
            stage = sum(step.verb == "FROM" for step in found) + (verb == "FROM")
            found.append(Step(stage, verb, " ".join(words.split())))
    return found


def last(verb: str) -> str:
    return [step.words for step in steps() if step.verb == verb][-1]


def environ() -> dict[str, str]:
    """Give the environment that the image has."""
    pairs = [
        pair.partition("=") for step in steps() if step.stage == 2 and step.verb == "ENV" for pair in step.words.split()
    ]
    return {name: value for name, _, value in pairs}


def copied(step: Step) -> tuple[list[str], str]:
    *sources, target = step.words.split()
    return sources, target


def is_sent(path: str) -> bool:
    """Is a path of the source tree part of what a builder is given, by .dockerignore?"""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch.fnmatch(path, pattern) or path.startswith(pattern + "/"):
                sent = line.startswith("!")
    return sent


def test_everything_that_is_copied_is_there_and_is_sent() -> None:
    """A path that moved, or that .dockerignore keeps back, would break the build on somebody else's machine."""
    sources = [
        each for step in steps() if step.verb == "COPY" and "--from" not in step.words for each in copied(step)[0]
    ]

    assert len(sources) >= 6
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), source
    assert not is_sent("smarthost.toml")
    assert not is_sent("state/queue.db")


def test_instructions_are_those_that_builders_know() -> None:
    """A misspelt instruction is found here and not in a pipeline."""
    known = {"ARG", "FROM", "WORKDIR", "ENV", "COPY", "RUN", "LABEL", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL"}
    assert {step.verb for step in steps()} <= known | {"HEALTHCHECK", "ENTRYPOINT"}
    assert [step.words for step in steps() if step.verb == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_it_runs_without_root_and_hears_signals() -> None:
    """A number as user, an entry point without a shell (which would swallow SIGTERM), ports that need no privilege."""
    uid, gid = map(int, last("USER").split(":"))

    assert uid > 0
    assert gid > 0
    assert json.loads(last("ENTRYPOINT")) == ["smarthost", "serve"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert all(int(port) >= 1024 for port in last("EXPOSE").split())
    assert json.loads(last("HEALTHCHECK").partition("CMD ")[2]) == ["smarthost", "ping"]


def test_the_queue_is_where_the_volume_is() -> None:
    """The image keeps its mail on the declared volume, and refuses a place that goes with the container."""
    volume = last("VOLUME")

    assert str(default_state_dir(environ(), is_root=False)) == volume
    assert environ()[VARIABLE] == "1"
    assert any(step.verb == "RUN" and step.words.endswith(volume) and "-m 0700" in step.words for step in steps())


def test_the_configuration_of_the_image_listens_where_it_is_exposed_and_opens_no_relay() -> None:
    """As shipped, others can connect, and nobody but the container itself may relay."""
    reading = read_config_file(HOME / "smarthost.toml", {"hostname": "relay.example.org", "state_dir": "/nowhere"})

    assert reading.config is not None, reading.errors
    assert [each.port for each in reading.config.listen] == [int(last("EXPOSE"))]
    assert all(network.is_loopback for network in reading.config.relay_from)


def test_what_is_installed_is_pinned_with_hashes() -> None:
    """Nothing comes into the image that the lock does not name."""
    installs = [
        step.words for step in steps() if step.verb == "RUN" and "pip" in step.words and "venv" not in step.words
    ]

    assert len(installs) == 4
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)
    build = (HOME / "build-requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in build)


def test_the_compose_example_stops_patiently_and_keeps_its_queue() -> None:
    """What people copy gives a drain its time, has a volume, and publishes no port."""
    text = (HOME / "compose.yaml").read_text()
    found = re.search(r"stop_grace_period: (\d+)s", text)

    assert found is not None
    assert int(found[1]) > GRACE_S + 10
    assert f"mail:{last('VOLUME')}" in text
    assert re.search(r"^ *ports:", text, re.MULTILINE) is None
    assert "0.0.0.0/0" not in text


@pytest.mark.slow
@pytest.mark.interop
def test_the_build_steps_run_and_what_they_make_serves(tmp_path: Path) -> None:
    """Each step in a scratch root, with pip as it is here; then the command of the image, and its check."""
    is_wanted = os.environ.get("CI") or os.environ.get("SMARTHOST_IMAGE")
    require(is_wanted, "the steps take minutes, and pip's index: SMARTHOST_IMAGE=1 has them run")
    root = tmp_path / "image"
    context = root / "build"
    context.mkdir(parents=True)
    (root / "tmp").mkdir()
    for step in steps():
        if step.verb == "COPY" and "--from" not in step.words:
            _copy(step, root, context)
        elif step.verb == "RUN" and step.stage == 1:
            _run(step, root, context)
    binary = root / "opt/smarthost/bin"
    has_installed = (binary / "smarthost").exists()
    require(has_installed, "the steps of the Containerfile could not be run")

    state = tmp_path / "state"
    inside = {**environ(), "PATH": f"{binary}:/usr/bin:/bin", "STATE_DIRECTORY": str(state), VARIABLE: "0"}
    inside.pop("PYTHONPATH", None)
    command = [str(binary / "smarthost"), "serve", "--config", str(root / "etc/smarthost/smarthost.toml")]
    where = ["--hostname", "relay.example.org", "--listen", "127.0.0.1:0"]
    with managed(tmp_path, [*command, *where], None, **inside) as service:
        service.wait_for("READY=1")
        check = [str(binary / "smarthost"), "ping"]
        told = subprocess.run(check, env=inside, capture_output=True, text=True, timeout=60, check=False)
        code, log = service.stop()

    assert told.returncode == 0, told.stderr
    assert code == 0, log


def _copy(step: Step, root: Path, context: Path) -> None:
    sources, target = copied(step)
    for source in sources:
        there = (root / target[1:]) if target.startswith("/") else context / target
        if target == "./":
            there = context / Path(source).name
        there.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / source), str(there)], check=True)


def _run(step: Step, root: Path, context: Path) -> None:
    words = step.words.replace("/opt/", f"{root}/opt/").replace("python -m venv", f"{sys.executable} -m venv")
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    ran = subprocess.run(
        ["sh", "-ec", words], cwd=context, env={**os.environ, **quiet}, capture_output=True, text=True, check=False
    )
    failed = f"{step.words}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    if "--require-hashes" in step.words:  # needs an index
        require(ran.returncode == 0, failed)
    assert ran.returncode == 0, failed
