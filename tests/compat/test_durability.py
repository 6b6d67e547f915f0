# SPDX-License-Identifier: MIT
"""What the kernel sees of a message's life: nothing counts before it is on disk, and what is done stays done."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.interop.programs import program

LIFE = """
import pickle, sys
from smarthost.compat.relaymanager import Queue

queue = Queue(sys.argv[1])
envelope, message = queue.createNewMessage()
with envelope:
    pickle.dump(["alice@example.org", "bob@example.net"], envelope)
message.lineReceived(b"hello")
message.eomReceived().addCallback(lambda name: print("ACKNOWLEDGED", flush=True))
queue.readDirectory()
(name,) = queue.getWaiting()
queue.setRelaying(name)
queue.done(name)
print("DONE", flush=True)
"""


@pytest.mark.slow
@pytest.mark.interop
def test_the_kernel_syncs_envelope_content_and_directory_before_a_message_is_acknowledged(tmp_path: Path) -> None:
    """As strace shows it: -H and -C synced, the rename, the directory synced; then 250. And so when it is removed."""
    directory = tmp_path / "queue"
    directory.mkdir()
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,write"
    command = [program("strace"), "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", LIFE, str(directory)]

    subprocess.run(command, check=True, capture_output=True, timeout=60)

    steps = []
    for line in trace.read_text().splitlines():
        call = re.search(r"(\w+)\(", line)
        if call and (f"{directory}" in line or "ACKNOWLEDGED" in line or "DONE" in line):
            what = re.search(r'-[HCD](?=[>"])|ACKNOWLEDGED|DONE', line)
            steps.append(f"{call[1].replace('at2', '').replace('at', '')} {what[0] if what else 'directory'}")
    assert steps == [
        "write -H",
        "fsync -H",
        "write -C",
        "fsync -C",
        "rename -C",
        "fsync directory",
        "write ACKNOWLEDGED",
        "unlink -D",
        "unlink -H",
        "fsync directory",
        "write DONE",
    ]
