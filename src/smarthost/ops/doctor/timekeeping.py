# SPDX-License-Identifier: MIT
"""Check `clock`: is the time sane, and does somebody keep it right? Retries, expiry, DKIM and TLS all trust it."""

from datetime import UTC, datetime

from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import World, aside

# When this was written: no clock that is right says less. And far ahead of any life this release has.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(2046, 1, 1, tzinfo=UTC).timestamp()
_SYNCHRONISE = "enable a time service (`timedatectl set-ntp true`, or chrony); in a container that is the host's task"
_WRONG_S = 1.0


async def check_clock(world: World, told: Findings) -> None:
    """Look at the date, and at what the kernel knows of its clock (adjtimex(2))."""
    now = world.clock.wall()
    date = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if not _EARLIEST <= now <= _LATEST:
        told.fail(
            f"the clock says {date}, which cannot be",
            f"set it, then {_SYNCHRONISE}: certificates and signatures fail, and receivers refuse such dates",
        )
    else:
        told.ok(f"the clock says {date}")
    state = await aside(world.machine.time_state)
    if state is None:
        told.skip("this system does not tell whether its clock is kept right")
    elif not state.is_synchronised:
        told.warn("nothing keeps the clock right (the kernel says: not synchronised)", _SYNCHRONISE)
    elif state.max_error_s > _WRONG_S:
        told.warn(f"the clock may be off by {state.max_error_s:.1f} s", _SYNCHRONISE)
    else:
        told.ok(f"the clock is synchronised, at most {state.max_error_s * 1000:.0f} ms off")
