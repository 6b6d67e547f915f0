# SPDX-License-Identifier: MIT
"""Hashing passwords takes no CPU from mail."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from smarthost.backends.users import UserFile, hash_password
from smarthost.testing.clock import FakeClock


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a priority of its own")
def test_passwords_are_hashed_with_the_cpu_that_mail_leaves(tmp_path: Path) -> None:
    """The threads that hash are of the lowest priority; the one that moves mail keeps its own."""
    file = tmp_path / "users.toml"
    file.touch(mode=0o600)
    file.write_text(f'[alice]\npassword = "{hash_password("secret")}"\nsenders = ["*"]\n')
    priorities: list[int] = []

    def verify(hashed: bytes, secret: bytes) -> bool:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return False

    async def guess() -> None:
        users = UserFile(file, FakeClock(), lambda *args, **facts: None)
        users._verify = verify
        answered = asyncio.Event()
        users.check("alice", "guess", lambda user: answered.set())
        await asyncio.wait_for(answered.wait(), 10)
        users.close()

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    asyncio.run(guess())

    assert priorities == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
