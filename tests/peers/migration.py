"""What others call it, and what it is here: data that the tests run and that prints docs/migration.md.

The rows of each peer stand in a file of their own. `python tests/peers/migration.py` writes the page.
"""

import pathlib
from typing import NamedTuple

import mpmath

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "migration.md"


class Wrong(NamedTuple):
    """An input at which theirs is wrong: what they give there, and the truth, a formula of mpmath."""

    inputs: str
    theirs: str
    truth: str
    of: str = "value"  # or "gradient", "forward" (the gradient in forward mode), "by y" (the gradient by y)
    dtype: str = "float32"

    def true(self):
        """The truth, with the digits that a float has."""
        with mpmath.workdps(40):
            return _floats(eval(self.truth, vars(mpmath)))

    def __str__(self) -> str:
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        of = {"value": "", "gradient": ", gradient", "forward": ", forward mode", "by y": ", gradient by y"}[self.of]
        theirs = f"raises {self.theirs}" if self.theirs.endswith("Error") else self.theirs
        return f"`{self.inputs}`{dtype}{of} | {theirs} | {_short(self.true())}"


class Row(NamedTuple):
    """Their call and ours: x are the predictions, y the targets, z what else is drawn, each of a kind.

    `apart` names the edges at which both are right and differ, as `difference` says, or at which theirs is wrong. `by`
    are the arguments whose gradients are compared.
    """

    theirs: str
    ours: str
    difference: str = ""
    x: str = "real"
    y: str = "real"
    z: str = "real"
    by: str = "x"
    apart: str = ""
    wrong: tuple[Wrong, ...] = ()

    def __str__(self) -> str:
        ours = "the same" if self.ours == self.theirs else f"`{self.ours}`"
        return f"| `{self.theirs}` | {ours} | {self.difference} |\n"

    @property
    def faults(self) -> str:
        """Where theirs is wrong."""
        calls = [f"`{self.theirs}`", *[""] * len(self.wrong)]
        return "".join(f"| {call} | {wrong} |\n" for call, wrong in zip(calls, self.wrong, strict=False))


class Peer(NamedTuple):
    """A library and its losses; `theirs` and `head` are for the page."""

    name: str
    head: str
    rows: list[Row]
    tail: str


def _floats(value):
    return [_floats(v) for v in value] if isinstance(value, list) else float(value)


def _short(value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    number, _, exponent = f"{value:.{6 if 1e3 <= abs(value) < 1e6 else 3}g}".partition("e")
    return f"{number}e{int(exponent)}" if exponent else number


def same(call: str, difference: str = "", *kinds: str, **rest) -> Row:
    """A row of a peer whose call is ours."""
    return Row(call, call, difference, *kinds, **rest)


def peers() -> list[Peer]:
    from migration_keras import KERAS  # they take Row from here
    from migration_optax import OPTAX
    from migration_tensorflow import TENSORFLOW
    from migration_torch import TORCH

    return [OPTAX, KERAS, TORCH, TENSORFLOW]


HEAD = """\
# Coming from optax, Keras, PyTorch, TensorFlow

Their losses, and what to call from `jaxloss` instead. In all calls `x` are predictions, `y` targets, and `z` is what
else there is. A second table of each library has inputs at which it is wrong.

The tests run every row on both sides: values and gradients under `jit`, on random inputs, on equal ones, on logits of
30 and 100, where predictions hit, and at zero. Inputs of the second tables are compared with the truth at 40 digits.
"""


def page() -> str:
    """The page, as Markdown."""
    sections = [
        f"\n## From {peer.name}\n\n{peer.head}\n"
        f"| {peer.name} | here | what differs |\n|---|---|---|\n{''.join(map(str, peer.rows))}\n{peer.tail}"
        f"\n### Where {peer.name} is wrong\n\n"
        f"| call | input | {peer.name} | the truth, and jaxloss |\n|---|---|---|---|\n"
        f"{''.join(row.faults for row in peer.rows)}"
        for peer in peers()
    ]
    return HEAD + "".join(sections)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
