"""The site's configuration for Sphinx; `.ci/site` builds it. What is particular to fastopt is in docs/site/."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "site"))

from links import metadata, repository  # noqa: E402

project = "fastopt"
smartquotes = False
highlight_language = "text"  # of blocks that name no language: commands
author = metadata()["authors"][0]["name"]
copyright = author
release = version = (DOCS.parent / "fastopt" / "_version.py").read_text().split('"')[-2]
html_title = f"fastopt {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "maths",
    "docstrings",
    "pages",
    "complete",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["site"]
templates_path = ["site/templates"]

myst_enable_extensions = ["colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 4
myst_linkify_fuzzy_links = False

autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say more
autodoc_preserve_defaults = True
autosummary_generate = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = "hide"

suppress_warnings = ["ref.footnote"]  # References of docstrings are numbered, and not all are cited.

html_theme = "furo"
html_static_path = ["site/static"]
html_css_files = ["fastopt.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": repository(),
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
    "footer_icons": [],
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
