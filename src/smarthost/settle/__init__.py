# SPDX-License-Identifier: MIT
"""Stage 5: relayed, deferred, bounced, expired; and who is told."""
