# SPDX-License-Identifier: MIT
"""The world: everything that touches sockets, files, clocks, DNS and databases."""
