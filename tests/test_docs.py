"""Every block of Python in the documentation runs, and what is generated is up to date.

A page is one program: its blocks run in order and share names. Blocks in comments of the page prepare what the others
take, and check what they found.
"""

import importlib.util
import inspect
import pathlib
import re

import jax
import pytest

import jaxloss

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if "```python" in path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_runs(page):
    text = page.read_text()
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[1], page.name, "exec"), names)


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_which_loss_has_each_function_once():
    which_loss = load("which_loss")
    calls = [row.call for rows in which_loss.SECTIONS.values() for row in rows]
    functions = [name for name in jaxloss.__all__ if inspect.isfunction(getattr(jaxloss, name))]
    assert sorted(re.match(r"\w+", call)[0] for call in calls) == sorted(functions)
    for call in calls:
        name, _, arguments = call.removesuffix(")").partition("(")
        named = {argument.partition("=")[0] for argument in arguments.split(", ") if argument}
        assert named <= set(inspect.signature(getattr(jaxloss, name)).parameters), call


@pytest.mark.parametrize("name", ["which_loss", "glossary"])
def test_pages_are_printed_from_their_data(name):
    module = load(name)
    assert module.PAGE.read_text() == module.page(), f"run `python docs/{name}.py`"
