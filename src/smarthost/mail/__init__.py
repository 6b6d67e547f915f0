# SPDX-License-Identifier: MIT
"""The vocabulary every stage shares: frozen values, and nothing that acts."""
