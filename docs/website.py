"""The pages of the documentation site, as a hook of mkdocs (mkdocs.yml).

The site has the layout of the repository: README.md is the front page, and a link between two files of the repository is
the same link on the site. The notebooks become pages by nbconvert, and mkdocstrings makes the API from the docstrings.
"""

import re
from pathlib import Path

import griffe
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

import algorithms
from attacks import ATTACKS

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "*.md",
    "docs/*.md",
    "tests/README.md",
    "checks/*.md",
    "figures/*.png",
    "papers/*/*.md",
    "papers/*/*.png",
    "CITATION.cff",
    "examples/*.ipynb",
)
PICTURES = ("clients", "confusion", "curves", "pareto", "representations", "split")
API = {  # {page: (title, what it is about)}
    "run": ("Run from Python", ["run.run", "errors.UserError", "errors.FailedError"]),
    "saves": ("Saved runs", ["saves"]),
    "figures": (
        "Tables and pictures",
        ["figures.compare.compare", "figures.render.render", *(f"figures.{name}.draw" for name in PICTURES)],
    ),
    "round": ("A round", ["helpers", "federation.Federation", "federation.wire.Wire"]),
}
PUBLIC = "    options:\n      filters: ['!^_', '^__call__$']\n"


class Lists(griffe.Extension):
    """Put an empty line before a list in a docstring, which Markdown needs and plain text does not."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Change the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^(?!-|\d+\.| )(.+)\n(?=- |\d+\. )", r"\1\n\n", obj.docstring.value, flags=re.MULTILINE
            )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the theme, and those of the repository under their own paths."""
    pages = Files([file for file in files if file.src_dir != config.docs_dir])
    paths = sorted({path.relative_to(ROOT).as_posix() for pattern in COPIED for path in ROOT.glob(pattern)})
    for path in paths:
        pages.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
        if path.endswith(".ipynb"):
            for name, content in _notebook(path).items():
                pages.append(File.generated(config, name, content=content))
    for name, text in _api().items():
        pages.append(File.generated(config, f"api/{name}.md", content=text))
    return pages


def on_page_markdown(markdown: str, **_) -> str:
    """Return the text of a page, whose links to notebooks lead to the pages of the notebooks."""
    return markdown.replace(".ipynb)", ".md)")


def _notebook(path: str) -> dict[str, str | bytes]:
    """Return {path: content} of the page of an executed notebook, and of its pictures."""
    folder, stem = Path(path).parent, Path(path).stem
    text, resources = MarkdownExporter().from_notebook_node(
        nbformat.read(ROOT / path, as_version=4), {"unique_key": stem, "output_files_dir": f"{stem}_files"}
    )
    text = text.replace('<table border="1" class="dataframe">', "<table>")  # in the style of the site
    title, _, rest = text.strip().partition("\n")
    download = f'\n\n<a href="{stem}.ipynb" download>Download the notebook</a>\n'
    pictures = {f"{folder}/{name}": content for name, content in resources["outputs"].items()}
    return {f"{folder}/{stem}.md": title + download + rest, **pictures}


def _api() -> dict[str, str]:
    """Return {name: text} of the pages of the API."""
    pages = {
        name: "\n".join([f"# {title}\n", *(f"::: {path}\n{PUBLIC}" for path in paths)])
        for name, (title, paths) in API.items()
    }
    families = [
        "\n".join([f"## {family[0].upper()}{family[1:]}\n", *(f"::: algorithms.{name}\n{_docstring(3)}" for name in names)])
        for family, names in algorithms.FAMILIES.items()
    ]
    pages["algorithms"] = "\n".join(["# Algorithms\n", *families])
    modules = ["attacks", *(f"attacks.{name}" for name in ATTACKS)]
    pages["attacks"] = "\n".join(["# Attacks\n", *(f"::: {module}\n{_docstring(2)}" for module in modules)])
    return pages


def _docstring(heading_level: int) -> str:
    """Return the options of a module whose docstring alone is shown."""
    return f"    options:\n      members: false\n      heading_level: {heading_level}\n"
