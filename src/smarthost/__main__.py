# SPDX-License-Identifier: MIT
"""`python -m smarthost` is the command `smarthost`."""

from smarthost.ops.cli import main

if __name__ == "__main__":
    main()
