"""The documentation's build: `sphinx-build -W docs build/docs`; it needs no network."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "planner"
author = "The planner's authors"
version = release = installed("llm-fleet-planner")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",
    "mathml",
]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = f"planner {release}"
html_static_path = ["_static"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_css_files = ["equations.css"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Docstrings are Google's form, and name things in single backquotes.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "attributes")]
