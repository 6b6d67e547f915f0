# SPDX-License-Identifier: MIT
"""How texts of strangers, and names of files, stand in the log."""

_SHOWN = 300  # characters


def shown(text: str) -> str:
    """Give a text as it may stand in a line: printable ASCII, and bounded."""
    return (text if text.isascii() and text.isprintable() else ascii(text))[:_SHOWN]
