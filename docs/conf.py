"""The site: `make docs` builds it into docs/_build/html, and warnings are errors."""

import pathlib
import re
import sys
import urllib.request

import jupytext
from docutils import nodes
from sphinx import addnodes

import jaxloss

REPOSITORY = "https://github.com/jaxloss/jaxloss"
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "jaxloss"
author = "The jaxloss authors"
release = version = jaxloss.__version__
copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_templates", "gallery/*.py"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
templates_path = ["_templates"]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # they stand in the signature
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Axis", "AxisName", "DTypeLike", "Reduction", "Rest")}
autosummary_generate = True
napoleon_custom_sections = ["Returns"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "jaxloss"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}


def online(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


LIBRARIES = {
    "jax": "https://docs.jax.dev/en/latest/",
    "numpy": "https://numpy.org/doc/stable/",
    "optax": "https://optax.readthedocs.io/en/latest/",
    "flax": "https://flax.readthedocs.io/en/latest/",
}
intersphinx_mapping = {  # without a network there are no links to other libraries, and no warnings of it
    name: (url, None) for name, url in LIBRARIES.items() if online(f"{url}objects.inv")
}


def families() -> dict[str, list[str]]:
    """The public names by family, from the docstring of the module."""
    found = re.findall(r"^([A-Z][^\n]*):\n((?:    .*\n)+)", jaxloss.__doc__, re.MULTILINE)
    return {family: [n.strip() for n in names.replace("\n", " ").split(",")] for family, names in found}


def write_api() -> None:
    """One page for each family, with a table of its functions, each of which has a page of its own."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    pages = []
    for family, names in families().items():
        page = re.sub(r"\W+", "_", family.lower())
        lines = "\n   ".join(names)
        text = f"{family}\n{'=' * len(family)}\n\n.. currentmodule:: jaxloss\n\n"
        text += f".. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n   {lines}\n"
        write(folder / f"{page}.rst", text)
        pages.append(page)
    lines = "\n   ".join(pages)
    head = "Reference\n=========\n\nEach function has a page with its formula, its arguments and an example.\n\n"
    write(folder / "index.rst", f"{head}.. toctree::\n   :maxdepth: 2\n\n   {lines}\n")


def write(path: pathlib.Path, text: str) -> None:
    """Only if it changed, so that a second build is short."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def draw_curves() -> list[str]:
    """A picture of each elementwise loss; the names of the losses."""
    import pointwise_losses

    folder = HERE / "api" / "curves"
    if not folder.exists():
        pointwise_losses.draw_each(folder)
    return [name for name, *_ in pointwise_losses.CURVES]


def write_notebooks() -> None:
    """Each script of the gallery as a notebook, which has a link that opens it."""
    for script in sorted((HERE / "gallery").glob("*.py")):
        notebook = jupytext.read(script)
        page = f"{REPOSITORY.removeprefix('https://github.com/')}/blob/main/docs/gallery/{script.stem}.ipynb"
        badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        notebook.cells[0].source += f"\n\n{badge}(https://colab.research.google.com/github/{page})"
        for i, cell in enumerate(notebook.cells):
            cell.id = f"cell-{i}"
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        write(script.with_suffix(".ipynb"), jupytext.writes(notebook, "ipynb"))


write_api()
write_notebooks()
autosummary_context = {"curves": draw_curves()}


def link_names(app, tree) -> None:
    """Makes `huber_loss` and `jaxloss.huber_loss(x, y)` in the text links to their pages."""
    if app.env.docname.startswith("api/"):
        return  # a docstring names functions of other libraries, too
    for literal in list(tree.findall(nodes.literal)):
        name = re.match(r"(?:jaxloss\.)?(\w+)(?:\(.*\))?$", literal.astext(), re.DOTALL)
        inside = isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, nodes.title))
        if name and name[1] in jaxloss.__all__ and not inside:
            reference = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=f"jaxloss.{name[1]}", refexplicit=True, refwarn=True
            )
            reference["py:module"] = reference["py:class"] = None
            literal.replace_self(reference)
            reference += literal


OF_REPOSITORY = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}


def read_source(app, name, source) -> None:
    """Pages that are files of the repository, and links to files that are no pages of the site."""
    text = source[0]
    if name in OF_REPOSITORY:
        text = (HERE.parent / OF_REPOSITORY[name]).read_text()
        text = re.sub(r"\]\((?!http|#)", "](../", text).replace("](../docs/", "](")
    source[0] = text.replace("](../", f"]({REPOSITORY}/blob/main/")


def setup(app) -> None:
    app.connect("source-read", read_source)
    app.connect("doctree-read", link_names)
