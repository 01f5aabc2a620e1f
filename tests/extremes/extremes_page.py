"""The tables of the sweep over extremes, printed and as docs/extremes.md."""

import importlib.metadata
import platform
from collections.abc import Iterable

import numpy as np

NAMES = {"jaxloss": "jaxloss", "optax": "optax", "keras": "Keras", "torch": "PyTorch"}
FAILED = ("wrong", "NaN")
TRIED = ("right", *FAILED)

HEAD = """# Extremes

Every loss is tried at inputs where formulas break. Each result is compared with the textbook formula at 420 digits.

- **Inputs**: zeros of both signs, denormal numbers, 1e-30, 1e4, 1e30, 3e38 and infinities, in every combination; rows
  of one to five classes, with one entry far above or below the others, all equal, or all moved by 1e6; equal, nearly
  equal, short and long vectors; hard, soft and zero targets; in float32, float16 and bfloat16.
- **Results**: the value, the gradient by the predictions, the tangent along a direction (forward mode), and the
  derivative of the gradient along it (second order).
- **NaN** counts where the truth is a number or infinite.
- **Wrong** is a spurious or a missing infinity, or an error above a thousandth of the truth that rounding cannot
  explain. Rounding explains 4 eps times the sum of the absolute terms of the formula, and as much for each e-fold of
  its exponentials.
- An infinite input is a limit. If the limit does not exist, no result is asked for, unless jaxloss documents one. At a
  kink every number is right. XLA flushes denormal numbers to zero: 0 is right for them.
- **Masks** repeat the inputs beside entries with NaN, infinities and labels of -100 that `where`, a weight of 0 or
  PyTorch's `ignore_index` excludes. **Empty** are empty batches, their sums and means.
- **Refused** is what raises an error, such as a second derivative that does not exist.

Other libraries are called for the same formula only, without reduction, and with logits where they take logits. Keras
clips probabilities to [1e-7, 1 - 1e-7] and adds 1e-7 by design: that counts, as it is what its users get.

`python tests/extremes/extremes.py --peers` wrote this page, with {versions}, on a CPU.
"""


Row = list[str]


def counted(tally, verdicts: Iterable[str], library: str, loss: str, column: str | None = None) -> int:
    return sum(
        n
        for (who, of, where, verdict), n in tally.counts.items()
        if (who, of) == (library, loss) and verdict in verdicts and column in (None, where)
    )


def by_loss(tally, libraries: list[str], columns: Iterable[str]) -> list[Row]:
    def cell(library, loss, column):
        wrong, missing = (counted(tally, [v], library, loss, column) for v in FAILED)
        if counted(tally, TRIED, library, loss, column):
            return f"{wrong} / {missing}" if wrong or missing else "0"
        return "refused" if counted(tally, ["refused"], library, loss, column) else ""

    order = dict.fromkeys(loss for _, loss, *_ in tally.counts)
    return [
        [f"`{loss}`", NAMES[library], str(counted(tally, TRIED, library, loss))]
        + [cell(library, loss, column) for column in columns]
        for loss in order
        for library in libraries
        if any(key[:2] == (library, loss) for key in tally.counts)
    ]


def summary(rows: list[Row]) -> list[Row]:
    """Of each library: its losses, and how many results were tried, wrong, and NaN."""
    found = []
    for library in dict.fromkeys(row[1] for row in rows):
        own = [row for row in rows if row[1] == library]
        failed = [tuple(map(int, cell.split("/"))) for row in own for cell in row[3:] if "/" in cell]
        numbers = len(own), sum(int(row[2]) for row in own), *(sum(each[i] for each in failed) for i in (0, 1))
        found.append([library, *map(str, numbers)])
    return found


def shown(a: np.ndarray) -> str:
    text = ", ".join(f"{v:.6g}" for v in np.atleast_1d(a).tolist())
    return f"[{text}]" if np.ndim(a) else text


def plainness(example, columns: list[str]) -> tuple:
    """What is shown of many: float32, finite, of ordinary size, values before derivatives, of two classes."""
    numbers = np.concatenate([np.ravel(a).astype(float) for a in (example.x, example.t)])
    sizes = np.abs(np.log10(np.abs(numbers[(numbers != 0) & np.isfinite(numbers)]))).max(initial=0)
    strange = example.dtype != "float32", not np.isfinite(numbers).all(), sizes > 6
    return *strange, columns.index(example.column), np.size(example.x) != 2, sizes


def examples(tally, libraries: list[str], columns: list[str]) -> list[Row]:
    first = {}
    for e in sorted(tally.examples, key=lambda e: plainness(e, columns)):
        first.setdefault((e.loss, e.library), e)
    order = dict.fromkeys(loss for _, loss, *_ in tally.counts)
    return [
        [f"`{e.loss}`", NAMES[e.library], f"{e.mode}, {e.dtype}", *(shown(a) for a in (e.x, e.t, e.got, e.truth))]
        for loss in order
        for library in libraries
        if (e := first.get((loss, library)))
    ]


def tables(rows: list[Row], shown_examples: list[Row], columns: list[str]) -> list[str]:
    from tabulate import tabulate

    def table(rows, *headers):
        return tabulate(rows, headers, tablefmt="github", disable_numparse=True)

    return [
        table(summary(rows), "library", "losses", "tried", "wrong", "NaN"),
        "Of each loss, 0 where nothing is wrong, else wrong / NaN:",
        table(rows, "loss", "library", "tried", *columns),
        "Of each loss that is wrong somewhere, one input:",
        table(shown_examples, "loss", "library", "result", "predictions", "targets", "gives", "truth"),
    ]


def page(rows: list[Row], shown_examples: list[Row], libraries: list[str], columns: list[str]) -> str:
    found = [*(f"{NAMES[each]} {importlib.metadata.version(each)}" for each in libraries)]
    versions = ", ".join([*found, f"JAX {importlib.metadata.version('jax')}", f"Python {platform.python_version()}"])
    return _joined(HEAD.format(versions=versions), *tables(rows, shown_examples, columns))


def rewritten(text: str, rows: list[Row], shown_examples: list[Row], order: list[str], columns: list[str]) -> str:
    """The page with these rows in the place of those of the same losses and libraries; losses in that order."""
    replaced = {tuple(row[:2]) for row in rows}

    def merged(old: list[Row], new: list[Row]) -> list[Row]:
        kept = [row for row in old if tuple(row[:2]) not in replaced]
        places = {f"`{loss}`": i for i, loss in enumerate(order)}
        return sorted(kept + new, key=lambda row: (places[row[0]], list(NAMES.values()).index(row[1])))

    _, old_rows, old_examples = _tables_of(text)
    head = text[: text.index("\n| library")]
    return _joined(head, *tables(merged(old_rows, rows), merged(old_examples, shown_examples), columns))


def _tables_of(text: str) -> list[list[Row]]:
    """The rows of each table of a page, without the headers."""
    found: list[list[Row]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def _joined(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"
