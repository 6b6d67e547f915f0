# SPDX-License-Identifier: MIT
"""The door: what is opened is closed again, however far a start went."""

import asyncio
from pathlib import Path

import pytest

from smarthost import ConfigError, Relay, StoreError

TWO_CA_FILES = """
[next_hop]
host = "127.0.0.1"
tls = "verified"
ca_file = "{first}"
[[route]]
domains = ["a.example"]
next_hop = {{ host = "127.0.0.1", tls = "verified", ca_file = "{second}" }}
"""


@pytest.mark.asyncio
async def test_a_start_that_fails_half_way_lets_go_of_the_state_directory(tmp_path: Path) -> None:
    """Two CA files cannot be served; once that is mended, the same program can start on the same directory."""
    for name in ("first", "second"):
        (tmp_path / name).write_text("")
    settings = TWO_CA_FILES.format(first=tmp_path / "first", second=tmp_path / "second")
    broken = Relay(state_dir=tmp_path / "state", hostname="relay.example", settings=settings)

    with pytest.raises(ConfigError, match="ca_file"):
        await broken.start()

    async with Relay(state_dir=tmp_path / "state", next_hop="127.0.0.1:9", hostname="relay.example") as relay:
        assert await relay.store.count() == (0, 0)


@pytest.mark.asyncio
async def test_a_port_in_use_lets_go_of_the_state_directory(tmp_path: Path) -> None:
    """A relay that cannot listen says so and leaves nothing open."""
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    relay = Relay(
        state_dir=tmp_path / "state", next_hop="127.0.0.1:9", hostname="relay.example", listen=[f"127.0.0.1:{port}"]
    )

    with pytest.raises(ConfigError, match="another program listens there"):
        await relay.start()

    with pytest.raises(StoreError, match="not started"):
        _ = relay.store
    async with Relay(state_dir=tmp_path / "state", next_hop="127.0.0.1:9", hostname="relay.example"):
        pass
    taken.close()
    await taken.wait_closed()


@pytest.mark.asyncio
async def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    """Stopping a relay that was never started, or was stopped before, does nothing."""
    relay = Relay(state_dir=tmp_path / "state", next_hop="127.0.0.1:9", hostname="relay.example")

    await relay.stop()
    await relay.start()
    await relay.stop()
    await relay.stop()
