# SPDX-License-Identifier: MIT
"""Stage 2: keep a message, and wake it when its time has come."""
