# SPDX-License-Identifier: MIT
"""What holds for all tests: queues of daemons under test may lie in memory or in a container, and are not mourned.

Properties are tried with the same examples in each run, so that a run says something about the code and not about luck,
and a busy machine fails none for being slow. HYPOTHESIS_PROFILE=explore tries others; `make fuzz` does so for parsers.
"""

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

os.environ.setdefault("SMARTHOST_REQUIRE_VOLUME", "0")  # else each start in a container says what ops/volatile.py says
