# SPDX-License-Identifier: MIT
"""Sphinx: the pages of docs/ as a site in build/docs (make docs), usable from file:// and without a network.

The pages are plain Markdown and read well on their own. Where one has a line `<!-- generated: NAME -->`, the site has
what `reference.NAME` makes of the code there; links to files outside docs/ become the files' names.
"""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

project = "smarthost"
copyright = "the smarthost authors"
release = installed_version("smarthost")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns: list[str] = []
root_doc = "index"
myst_heading_anchors = 3
myst_enable_extensions: list[str] = []
html_theme = "furo"
html_title = f"smarthost {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which file:// does not allow
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "literal"  # backticks in docstrings
highlight_language = "text"
pygments_style = "friendly"

_GENERATED = re.compile(r"^<!-- generated: ([a-z_]+) -->$", re.MULTILINE)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")
_SITE = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md"}


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Put in what is generated, and lead links out of docs/ to where the site has the same."""
    text = _GENERATED.sub(lambda match: getattr(reference, match[1])(), source[0])
    source[0] = _OUTSIDE.sub(_link, text)


def _link(match: re.Match[str]) -> str:
    text, file, _ = match.groups()
    if file in _SITE:
        return f"[{text}]({_SITE[file]})"
    return f"`{file}`"


def setup(app: Sphinx) -> dict[str, bool]:
    """Join in."""
    app.connect("source-read", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
