"""The site of the documentation: every link leads somewhere, and no page loads anything from another host."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import algorithms

RESOURCE = re.compile(r"<(?:link|script|img|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    for library in ("mkdocs", "mkdocstrings", "material", "nbconvert"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page_notebook_algorithm_and_word(site):
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    assert {f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")} < pages
    assert {f"examples/{path.stem}" for path in (ROOT / "examples").glob("*.ipynb")} < pages
    assert "Use your own data" in (site / "index.html").read_text(), "the README"
    text = "".join((site / "api" / f"{name}.html").read_text() for name in ("run", "round", "algorithms"))
    names = ["run.run", "helpers.train", "federation.Federation.sample", "federation.wire.Wire.up"]
    for name in [*names, *(f"algorithms.{name}" for name in algorithms.ALGORITHMS)]:
        assert f'id="{name}"' in text


def test_no_page_loads_anything_from_another_host(site):
    assert RESOURCE.findall('<script src="https://example.org/x.js">'), "the pattern finds it"
    assert not [match for path in site.rglob("*.html") for match in RESOURCE.findall(path.read_text())]
    assert not [path for path in site.rglob("*.css") if re.search(r"url\([\"']?https?:", path.read_text())]


def test_the_menu_has_every_page_of_docs_and_every_notebook():
    menu = (ROOT / "mkdocs.yml").read_text()
    names = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    names += [f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")]
    assert not [name for name in names if name not in menu]
