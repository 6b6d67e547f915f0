# SPDX-License-Identifier: MIT
"""Stage 4: one attempt to hand a lease on."""
