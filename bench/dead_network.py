# SPDX-License-Identifier: MIT
"""A network and mounts of our own: loopback only, its port 53 the resolver, its port 25 free on every 127.x address.

Postfix can choose neither the port of MX delivery nor its name server; in namespaces of our own nobody has to. The
benchmark starts itself anew under unshare(1) as root; nothing of the machine's own network is touched, and all is gone
with the last process inside.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.failure import RunFailed
from bench.programs import find_program

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)
_IFREQ = "16sh22x"
_UNSHARE = ("--net", "--mount", "--propagation", "private")


def namespaces() -> str:
    """Name the namespaces of network and mounts that this process is in."""
    return " ".join(os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt"))


def why_no_namespaces() -> str | None:
    """Say why this process may not have namespaces of its own, None when it may."""
    if os.geteuid() != 0:
        return "a network namespace of our own needs root: run as root"
    missing = [name for name in ("unshare", "mount") if find_program(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed (util-linux)"
    answer = subprocess.run(["unshare", *_UNSHARE, "true"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return f"namespaces are not permitted here (a container?): {answer.stderr.strip()}"
    return None


def start_anew_inside(module: str, argv: Sequence[str]) -> None:
    """Become the same command in namespaces of its own; does not return."""
    again = [sys.executable, "-m", module, "--outside", namespaces(), *argv]
    sys.stdout.flush()
    os.execvp("unshare", ["unshare", *_UNSHARE, *again])


def furnish(outside: str, scratch: Path) -> None:
    """Set up loopback and the resolver's configuration. Raises: RunFailed: these are not namespaces of our own."""
    theirs = set(outside.split())
    if len(theirs) != 2 or theirs & set(namespaces().split()):
        raise RunFailed("this is the network or the mounts of who asked, and must not be changed")
    _bring_up("lo")
    configuration = scratch / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", configuration, "/etc/resolv.conf"], check=True)


def _bring_up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = interface.encode()
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack(_IFREQ, name, 0))
        (_, flags) = struct.unpack(_IFREQ, answer)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_IFREQ, name, flags | _IFF_UP))
