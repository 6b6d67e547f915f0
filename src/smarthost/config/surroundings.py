# SPDX-License-Identifier: MIT
"""What the machine says where the operator is silent: host name, state directory. No network is touched."""

import os  # noqa: TID251 - the environment names the state directory
import socket  # noqa: TID251 - gethostname only
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

SYSTEM_STATE_DIR = Path("/var/lib/smarthost")


class Surroundings(Struct, frozen=True):
    """What the machine says where the operator is silent."""

    host_name: str
    state_dir: Path

    @staticmethod
    def look() -> "Surroundings":
        """Ask the machine: gethostname (never a resolver, whose guess would go into EHLO) and the environment."""
        return Surroundings(socket.gethostname().lower(), default_state_dir(os.environ, is_root=os.geteuid() == 0))


def credentials_directory() -> Path | None:
    """Give where systemd puts the credentials of this service (LoadCredential=), or None: it runs nowhere near it."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(directory) if directory.startswith("/") else None


def default_state_dir(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """Choose systemd's $STATE_DIRECTORY, else /var/lib/smarthost for root, else the XDG state directory."""
    if first := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(first)
    if is_root:
        return SYSTEM_STATE_DIR
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "smarthost"
