# SPDX-License-Identifier: MIT
"""What holds for all tests: queues of daemons under test may lie in memory or in a container, and are not mourned."""

import os

os.environ.setdefault("SMARTHOST_REQUIRE_VOLUME", "0")  # else each start in a container says what ops/volatile.py says
