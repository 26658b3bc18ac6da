"""How Sphinx builds the guide: `nox -s docs`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import figures  # noqa: E402
import notebooks  # noqa: E402

import bpengine  # noqa: E402

URLS = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
project = "bpengine"
author = "The bpengine developers"
project_copyright = author
version = release = bpengine.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "numpydoc",
    "mathematics",
]
exclude_patterns = ["_build"]
root_doc = "index"
nitpicky = True

myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "bpengine"
html_baseurl = URLS["Documentation"] + "/"
html_theme_options = {
    "source_repository": URLS["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "svg"
copybutton_prompt_text = r">>> |\.\.\. "  # copy the code without prompts and outputs
copybutton_prompt_is_regexp = True
pygments_style = "friendly"
pygments_dark_style = "monokai"

# single backticks in docstrings are links to documented names, and code otherwise
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*")]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False


def rubrics(app, what, name, thing, options, lines):
    """Turn the headings of a module's docstring into rubrics, as numpydoc does for a class."""
    if what == "module":
        for i, line in enumerate(lines[1:]):
            if line and set(line) == {"-"}:
                lines[i : i + 2] = [f".. rubric:: {lines[i]}", ""]


def trim(app, page, source):
    """Drop the blank line before the end of a code block, which doctest needs."""
    source[0] = re.sub(r"\n\n```$", "\n```", source[0], flags=re.MULTILINE)


def offer_notebook(app, page, source):
    """Below the title of a page of the tutorial, link its notebook."""
    if re.match(r"tutorial/(?!index)", page):
        link = f"{{download}}`Download as a notebook <../_build/notebooks/{Path(page).name}.ipynb>`"
        source[0] = source[0].replace("\n", f"\n\n{link}\n", 1)


def setup(app):
    """Register the steps above; pictures and notebooks are made before the pages are read."""
    app.connect("builder-inited", lambda app: figures.make(DOCS))
    app.connect(
        "builder-inited", lambda app: notebooks.make(DOCS, URLS["Documentation"], URLS["Repository"])
    )
    app.connect("source-read", trim)
    app.connect("source-read", offer_notebook)
    app.connect("autodoc-process-docstring", rubrics)
