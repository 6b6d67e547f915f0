# SPDX-License-Identifier: MIT
"""The site is built without a warning, has each page, asks nothing of the network, and tells all that the code has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import smarthost
from smarthost.mail.record import Kind, Record
from smarthost.ops.cli import cli
from smarthost.ops.metrics_table import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"")
_LINKED = re.compile(r"<a\b[^>]*?\bhref=\"([^\"#]+)(?:#[^\"]*)?\"")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    target = tmp_path_factory.mktemp("docs")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", target / "trees", DOCS, target / "site"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=target,
    )
    assert built.returncode == 0, built.stderr
    return target / "site"


def test_each_page_is_in_the_site_and_in_its_index(site: Path) -> None:
    """A page that nobody links is a page that nobody reads."""
    index = (site / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert (site / f"{page.stem}.html").exists(), page.name
        assert page.stem == "index" or f'href="{page.stem}.html"' in index, page.name


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    """The site works from file:// on a machine without a network: no font, no script, no style comes from elsewhere."""
    for page in site.glob("*.html"):
        loaded = _LOADED.findall(page.read_text())
        assert not [each for each in loaded if "//" in each], page.name
        for each in loaded:
            file = each.partition("?")[0].partition("#")[0]
            assert not file or (site / file).exists(), f"{page.name}: {each}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style.name


def test_no_link_within_the_site_is_broken(site: Path) -> None:
    """Whatever is clicked on is there."""
    for page in site.glob("*.html"):
        for link in _LINKED.findall(page.read_text()):
            assert "//" in link or link.startswith("mailto:") or (site / link).exists(), f"{page.name}: {link}"


def test_the_reference_has_all_that_the_code_has(site: Path) -> None:
    """Each command, exit code, metric, kind, field and exported name is in the reference."""
    commands = (site / "reference-commands.html").read_text()
    values = (site / "reference-values.html").read_text()
    library = (site / "reference-library.html").read_text()

    assert not [name for name, each in cli.commands.items() if not each.hidden and f">smarthost {name}" not in commands]
    assert not [name for name in METRICS if f"{PREFIX}{name}" not in values]
    assert not [kind for kind in Kind if f">{kind.value}<" not in values]
    assert not [name for name in Record.__struct_fields__ if name != "seq" and f">{name}<" not in values]
    assert not [name for name in smarthost.__all__ if f'id="smarthost.{name}"' not in library]
    assert ">78<" in values
    assert len(smarthost.__all__) <= 20


def test_the_readme_names_only_what_exists() -> None:
    """Each page that the README links is there."""
    for name in ("README.md", "ARCHITECTURE.md"):
        links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
        assert not [link for link in links if not (ROOT / link).exists()], name
