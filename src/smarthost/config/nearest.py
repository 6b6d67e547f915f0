# SPDX-License-Identifier: MIT
"""Which known word an operator may have meant by one that is not known. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.6  # difflib's own; at 0.5 "tls" would be "dns"


def find_nearest(word: str, known: Iterable[str]) -> str:
    """Give the known word that is most like this one, or ""; capitals, and "-" for "_", make no difference."""
    folded = {_fold(each): each for each in known}
    close = get_close_matches(_fold(word)[:100], folded, n=1, cutoff=_LIKENESS)
    return folded[close[0]] if close else ""


def did_you_mean(word: str, known: Iterable[str], form: str = "{}") -> str:
    """Give the end of an error, such as '; did you mean limits.recipients?', or ""; `form` goes around the word."""
    nearest = find_nearest(word, known)
    return f"; did you mean {form.format(nearest)}?" if nearest else ""


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
