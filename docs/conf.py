"""The site: `nox -s docs` builds it from docs/ into docs/_build."""

import os
from importlib.metadata import version as version_of
from typing import Any

# Exact numerics need float64 inside, and the reference imports JAX before any example does.
os.environ["JAX_ENABLE_X64"] = "1"

project = "array-api-kernels"
author = "the array-api-kernels authors"
version = release = version_of(project)
copyright = f"2026, {author}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates", "examples/*.rst"]
templates_path = ["_templates"]

# Every link inside the site must have a target; those to other sites are not followed.
nitpicky = True
# Types of Python and of libraries, whose pages are elsewhere.
nitpick_ignore_regex = [
    ("py:class", r"(collections|typing|os|pathlib|torch|contextlib)\..*"),
    ("py:class", r"(Any|Callable|Sequence|AbstractContextManager|PathLike.*)"),
    # Types that have no page.
    ("py:class", r"(.*\.)?(Array|Operand|Half)"),
    # Attributes of estimators, which their classes describe.
    ("py:obj", r"\w+_"),
]
myst_heading_anchors = 3

autosummary_generate = True
# What `__all__` names is public, wherever it is written down.
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints_format = "short"
numpydoc_show_class_members = False
default_role = "code"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "abort_on_example_error": True,
    "parallel": True,
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f5f8b",
        "color-brand-content": "#1f5f8b",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif",
    },
}


def without_fields(*event: Any) -> bool:
    """Leave out fields of a NamedTuple, which the class describes, and what scikit-learn adds."""
    _app, _what, name, member, skip, _options = event
    return skip or type(member).__name__ == "_tuplegetter" or name.endswith("_request")


def find_public(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Find the public name of what an annotation names by the module that it is written in."""
    name = node["reftarget"].rpartition(".")[2]
    for module in ("kernels", "kernels.numerics", "backends", "backends.workers"):
        python, page = env.domains["py"], node["refdoc"]
        found = python.resolve_xref(env, page, app.builder, "obj", f"{module}.{name}", node, text)
        if found is not None:
            return found
    return None


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("autodoc-skip-member", without_fields)
    app.connect("missing-reference", find_public)
