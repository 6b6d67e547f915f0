# SPDX-License-Identifier: MIT
"""Public test support: fakes that pass the same checks as the real things."""
