# SPDX-License-Identifier: MIT
"""The one way a run ends without a figure."""


class RunFailed(Exception):
    """A run that must not count: something was missing, doubled, refused, or never came up; the text says what."""
