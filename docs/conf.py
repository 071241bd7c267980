"""The site: `make site` builds it into site/, offline. Everything but the reference is the Markdown in this folder."""

from __future__ import annotations

from typing import Any

import trilens

project = "trilens"
author = "the authors of trilens"
release = version = trilens.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["conf.py"]
root_doc = "index"

html_theme = "furo"
html_title = f"trilens {release}"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write `name` for code
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True

# Pages that lie elsewhere in the repository, by the page of the site that includes them.
INCLUDED = {
    "recipes/tiny/README.md": "recipes.md",
    "csrc/README.md": "csrc.md",
    "examples/README.md": "examples.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def link_inside(app: Any, page: str, source: list[str]) -> None:
    """Let links to included pages, which are right in the repository, lead to the site's own."""
    up = "../" * (page.count("/") + 1)
    for place, name in INCLUDED.items():
        source[0] = source[0].replace(f"]({up}{place})", f"]({'../' * page.count('/')}{name})")


def setup(app: Any) -> None:
    app.connect("source-read", link_inside)
