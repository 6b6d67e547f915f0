# SPDX-License-Identifier: MIT
"""Finds the programs that a benchmark needs and says loudly which are missing; installs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.options import Options

_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"  # not on an ordinary user's PATH in Debian
_BY_SYSTEM = {"postfix": ("postfix", "postconf")}
_ALWAYS = ("smtp-source", "smtp-sink")


def find_program(name: str) -> str | None:
    """Give the path of a program, looking in the administrator's directories too."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SBIN)


def require_program(name: str) -> str:
    """Give the path of a program that `missing_programs` has seen. Raises: FileNotFoundError."""
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(name)
    return path


def missing_programs(options: Options) -> list[str]:
    """Say in one line each what this run needs and does not have."""
    wanted = [*_ALWAYS, *(name for system in options.systems for name in _BY_SYSTEM.get(system, ()))]
    lines = [f"{name} is not installed: run tools/system-packages" for name in wanted if find_program(name) is None]
    if "postfix" in options.systems and os.geteuid() != 0:
        lines.append("Postfix's master only starts as root: run as root, or leave it out with --only")
    if "smarthost" in options.systems and not os.access(options.smarthost, os.X_OK):
        lines.append(f"{options.smarthost} does not exist: run make install")
    if not os.access(options.scratch, os.W_OK | os.X_OK):
        lines.append(f"{options.scratch} cannot be written to: choose another --scratch")
    if options.profile and find_py_spy() is None:
        lines.append("py-spy is not installed: make bench installs it into .venv")
    return lines


def find_py_spy() -> str | None:
    """Give py-spy's path: of this virtual environment, else of PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else find_program("py-spy")


def postfix_version() -> str:
    """Give Postfix's version, or "none"."""
    postconf = find_program("postconf")
    if postconf is None:
        return "none"
    answer = subprocess.run([postconf, "-dh", "mail_version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
