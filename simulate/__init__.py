# SPDX-License-Identifier: MIT
"""The simulation: whole days of random mail and faults in seconds. Run with `python -m simulate`."""
