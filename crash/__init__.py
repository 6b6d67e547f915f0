# SPDX-License-Identifier: MIT
"""The crash suite: what smarthost has said 250 to arrives, whatever is done to it. Run with `python -m crash`."""
