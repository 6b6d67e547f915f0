# SPDX-License-Identifier: MIT
"""Which file holds the configuration, and where a daemon keeps its state. Reads files, writes none."""

import os  # noqa: TID251 - the environment names the state directory
import tomllib
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from smarthost.config import units
from smarthost.config.read import read_config
from smarthost.config.surroundings import default_state_dir
from smarthost.config.values import Reading
from smarthost.mail.errors import ConfigError

DEFAULT_FILE = Path("/etc/smarthost/smarthost.toml")


def read_config_file(
    path: Path | None, flags: Mapping[str, object] = {}, spelled: Mapping[str, str] = {}, default: Path = DEFAULT_FILE
) -> Reading:
    """Read a file (None: the default one if it exists) with flags over it."""
    if path is None and not default.exists():
        return _without_file(read_config("", flags, spelled), default)
    file = default if path is None else path
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        return Reading(None, (ConfigError(f"cannot be read: {error.strerror}"),), str(file))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Reading(None, (ConfigError("not UTF-8, which TOML must be", line=line),), str(file))
    return read_config(text, flags, spelled, file=str(file))


def _without_file(reading: Reading, default: Path) -> Reading:
    """Say in each error that is no flag's where a file would have been."""
    told = [
        error if error.key.startswith("--") else ConfigError(f"{error.detail} (no {default}: defaults)", key=error.key)
        for error in reading.errors
    ]
    return replace(reading, errors=tuple(told))


def find_state_dir(state_dir: str | None, file: Path | None, default: Path = DEFAULT_FILE) -> Path:
    """Say where a daemon keeps its state, from a flag, a file (however wrong the rest of it is), or the machine.

    Raises: ConfigError: the file cannot be read, is not TOML, or its state_dir is not a path.
    """
    if state_dir:
        return units.path(state_dir)
    source = file if file is not None else default if default.exists() else None
    if source is not None:
        try:
            written = tomllib.loads(source.read_text("utf-8")).get("state_dir")
            if written is not None:
                return units.path(written)
        except (OSError, ValueError, RecursionError) as error:  # a decoding error of either kind is a ValueError
            raise ConfigError(f"{source}: {error}", key="state_dir") from error
    return default_state_dir(os.environ, is_root=os.geteuid() == 0)
