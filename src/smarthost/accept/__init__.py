# SPDX-License-Identifier: MIT
"""Stage 1: take responsibility for a message."""
