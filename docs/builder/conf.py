"""Settings of Sphinx. Everything the site shows lies in it: no fonts, scripts or images from elsewhere."""

from typing import Any

from conffusion import __version__
from docs.builder.docstrings import to_rst

project = "conffusion"
author = "The conffusion developers"
version = release = __version__
html_title = f"conffusion {__version__}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "docs/index"

myst_heading_anchors = 4

autodoc_typehints = "none"  # docstrings state shapes, types and ranges
autodoc_inherit_docstrings = False
autodoc_member_order = "groupwise"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]
python_display_short_literal_types = True
python_maximum_signature_line_length = 100
add_module_names = False
default_role = "py:obj"
suppress_warnings = ["ref.python"]  # attributes of several classes share a name, and each becomes a link by it

html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _prepare(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> None:
    """Register the treatment of docstrings, before that of their sections."""
    app.connect("autodoc-process-docstring", _prepare, priority=400)
