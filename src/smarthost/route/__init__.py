# SPDX-License-Identifier: MIT
"""Stage 3: find the next hop of a destination."""
