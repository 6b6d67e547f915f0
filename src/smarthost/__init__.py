# SPDX-License-Identifier: MIT
"""A smart host: the mail relay that every other node hands its mail to."""
