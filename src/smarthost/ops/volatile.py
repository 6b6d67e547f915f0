# SPDX-License-Identifier: MIT
"""Says loudly at the start that the queue would not outlive a container, or the power; refuses to start if told to.

Asked by the daemon before anything is opened; reads the mount table and one variable of the environment. `doctor` says
the same in the same words, with more around it. A queue of a laboratory is warned of too, unless the variable says that
this is known. What only looks like a container's layer is a warning, for it may be a machine like any other.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from smarthost.backends.volume import Volume, describe_volume
from smarthost.mail.errors import ConfigError
from smarthost.ports import Sink

VARIABLE = "SMARTHOST_REQUIRE_VOLUME"
_CURE = "put it on a volume (docker run -v smarthost:/var/lib/smarthost), or set state_dir to a disk of the machine"
NO_CONTAINER = "if this is no container, the machine looks like one: ignore this"


def warn_if_volatile(
    state_dir: Path,
    environ: Mapping[str, str],
    sink: Sink,
    describe: Callable[[Path], Volume | None] = describe_volume,
) -> None:
    """Log where mail would be lost; with SMARTHOST_REQUIRE_VOLUME=1 refuse, with 0 be silent.

    Raises: ConfigError: refused, or the variable is neither.
    """
    wanted = environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise ConfigError(f"expected 1 (refuse to start without a volume) or 0, got {wanted!r}", key=VARIABLE)
    volume = None if wanted == "0" else describe(state_dir)
    if (why := find_loss(volume)) == "":
        return
    is_sure = volume is not None and (volume.is_memory or volume.is_container)
    cure = _CURE if is_sure else f"{_CURE}; {NO_CONTAINER} ({VARIABLE}=0 has it said no more)"
    if wanted == "1":
        raise ConfigError(
            f"{state_dir} {why}, and {VARIABLE}=1 forbids that; {_CURE}; {VARIABLE}=0 takes the risk", key="state_dir"
        )
    sink.note("error" if is_sure else "warning", "mail can be lost", state_dir=str(state_dir), why=why, cure=cure)


def find_loss(volume: Volume | None) -> str:
    """Say what would take the queue away, or "": nothing, or the machine does not tell."""
    if volume is None:
        return ""
    if volume.is_memory:
        return f"lies in memory ({volume.fs_type} at {volume.mount_point}): all mail in the queue goes with the power"
    if volume.is_container:
        return "lies in the container's own layer: all mail in the queue goes with the container"
    if volume.is_container_layer:
        return "seems to lie in a container's own layer: all mail in the queue would go with the container"
    return ""
