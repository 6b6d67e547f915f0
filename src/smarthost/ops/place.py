# SPDX-License-Identifier: MIT
"""Where the control socket is, also when its path is longer than a socket address can hold. Used by both ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smarthost.mail.errors import ConfigError
from smarthost.ops.verbs import SOCKET_NAME

_PATH_OCTETS = 107  # sun_path of unix(7) has 108, the last one NUL
_OWN_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def socket_address(state_dir: Path) -> Iterator[str]:
    """Give an address of the control socket that is good within the block: a long one goes by way of a descriptor.

    Raises: ConfigError: the path is too long and there is no /proc. OSError: the directory cannot be opened.
    """
    path = str(state_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= _PATH_OCTETS:
        yield path
        return
    if not _OWN_DESCRIPTORS.exists():
        raise ConfigError(
            f"the path of its control socket has more than {_PATH_OCTETS} octets: {path}", key="state_dir"
        )
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_OWN_DESCRIPTORS / str(directory) / SOCKET_NAME)
    finally:
        os.close(directory)
