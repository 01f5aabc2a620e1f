"""Every loss over planted extremes, beside the truth at many digits.

`python tests/extremes/extremes.py` tries jaxloss; with `--peers` also optax, Keras and PyTorch, as far as they are
installed. It writes docs/extremes.md; with `--only NAME` it rewrites the rows of those losses there.
"""

import argparse
import importlib.util
import pathlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import extremes_others as others
import extremes_truth
import jax.numpy as jnp
import numpy as np
from cases import CASES, INDEX, Case
from extremes_peers import IGNORED, MASKED, ONLY_VALUES, PEERS, Results, of_jax, of_torch
from extremes_truth import DTYPES, MODES, Inputs, Truth, truths
from tolerances import FEW

PAGE = ROOT / "docs" / "extremes.md"
OURS = "jaxloss"
COLUMNS = [*MODES, "masks", "empty"]
WRONG = ("wrong", "NaN")
ALL = [*CASES, *others.PLANTED]


def name(case: Case) -> str:
    """Of the loss and its options, for two ways of calling it that have the same ones also of the formula."""
    same = [c for c in ALL if c.id == case.id]
    return case.id if len(same) == 1 else case.formula.__name__


class Example(NamedTuple):
    library: str
    loss: str
    mode: str
    column: str
    dtype: str
    x: np.ndarray
    t: np.ndarray
    got: np.ndarray
    truth: np.ndarray


class Tally(NamedTuple):
    counts: Counter  # of (library, loss, column, verdict)
    examples: list[Example]  # of what is wrong or NaN
    refusals: dict[tuple[str, str, str, str], str]  # by library, loss, mode, dtype


# Right or wrong.


def right(got: np.ndarray, readings: list[Truth], span: np.ndarray) -> np.ndarray:
    """Whether a result is what one of the readings says, as far as its dtype can tell."""
    finfo = jnp.finfo(got.dtype)
    largest, got = float(finfo.max), got.astype(np.float64)
    span = np.minimum(span, -np.log(float(finfo.smallest_subnormal)))
    found = np.zeros(got.shape, bool)
    for truth, terms, smooth in readings:
        with np.errstate(invalid="ignore"):
            terms = np.minimum(np.maximum(terms, np.abs(truth)), largest)
            rounding = FEW * float(finfo.eps) * (1 + span) * terms
            bound = np.maximum(1e-3 * np.abs(truth), rounding) + FEW * float(finfo.tiny)
            near = np.abs(got - truth) <= bound
            infinite = (got == np.copysign(np.inf, truth)) & (np.abs(truth) > (1 - 1e-3) * largest)
        kink = ~smooth & (np.isfinite(got) | (~np.isnan(got) & (terms == largest)))
        found |= ~np.isnan(truth) & (near | infinite | kink)
    return found


def verdicts(got: np.ndarray, readings: list[Truth], span: np.ndarray, *, sums: bool) -> np.ndarray:
    """Of each input: "right", "wrong", "NaN" (where there is a number), or "undefined" (where there is none).

    Of sums whose dtype does not reach so far there is none: the products may be infinities of both signs.
    """
    defined = ~np.isnan(readings[0].truth)
    if sums:
        defined &= (np.abs(readings[0].truth) <= float(jnp.finfo(got.dtype).max)).all(-1, keepdims=True)
    failed = defined & ~right(got, readings, span if got.ndim == 1 else span[:, None])
    missing = failed & np.isnan(got.astype(np.float64))
    if got.ndim > 1:
        defined, failed, missing = (a.any(-1) for a in (defined, failed, missing))
    return np.select([~defined, missing, failed], ["undefined", "NaN", "wrong"], "right")


def span(case: Case, batch: Inputs) -> np.ndarray:
    """Of the exponentials of an input, as in test_textbook.py."""
    if case in others.EXPONENTS:
        return np.full(len(batch.x), others.EXPONENTS[case])
    each = np.abs(batch.x) + (np.abs(batch.t) if batch.t.shape == batch.x.shape else 1)
    return (case.exponential or case in others.PLANTED) * np.nan_to_num(each.max(-1) if case.rows else each)


def judge(
    tally: Tally,
    library: str,
    case: Case,
    dtype,
    batches: list[Inputs],
    truth: list[list[dict[str, Truth]]],
    found: Results,
    column: str | None = None,
) -> None:
    for mode, arrays in found.items():
        key = library, name(case), column or mode
        if isinstance(arrays, str):
            tally.counts[*key, "refused"] += sum(len(b.x) for b in batches)
            tally.refusals[library, key[1], mode, np.dtype(dtype).name] = arrays
            continue
        for batch, readings, got in zip(batches, truth, arrays, strict=True):
            sums = case.rows and mode == "second order"
            said = verdicts(got, [reading[mode] for reading in readings], span(case, batch), sums=sums)
            tally.counts.update((*key, str(v)) for v in said)
            for i in np.flatnonzero(np.isin(said, WRONG)):
                shown = batch.x[i], batch.t[i], got[i].astype(np.float64), readings[0][mode].truth[i]
                tally.examples.append(Example(*key[:2], mode, key[2], np.dtype(dtype).name, *shown))


# What is beside it, and removed.


def soiled(batch: Inputs, truth: list[dict[str, Truth]], *, column: bool) -> tuple[Inputs, list[dict[str, Truth]]]:
    """With a class, or else with six examples more, of NaN, infinities and impossible labels; they count for 0."""
    bad = np.array([np.nan, np.inf, -np.inf])

    def grown(a, fill):
        if column:
            return np.concatenate([a, np.resize(fill, (len(a), 1))], 1) if a.ndim > 1 else a
        return np.concatenate([a, np.resize(fill, (6, *a.shape[1:]))])

    t = grown(batch.t, np.array([-100, 10**6, -1], np.int32) if batch.t.dtype == np.int32 else bad[::-1])
    dirty = Inputs(grown(batch.x, bad), t, np.append(batch.direction, 1.0) if column else batch.direction)
    return dirty, [{m: Truth(*map(grown, f, (0.0, 0.0, True))) for m, f in reading.items()} for reading in truth]


def masked(library: str, case: Case, batch: Inputs, truth: list[dict[str, Truth]]) -> list[tuple]:
    """Inputs, truths and masks: examples removed by `where`, by weights of 0, by labels; classes removed by `where`."""
    dirty, clean = soiled(batch, truth, column=False)
    place, n = np.arange(len(dirty.x)), len(batch.x)
    if library == "torch":
        return [(dirty._replace(t=np.where(place < n, dirty.t, -100)), clean, {})]
    if library == "optax":
        found = [(dirty, clean, {"where": np.broadcast_to((place < n)[:, None], dirty.x.shape)})]
    else:
        found = [(dirty, clean, {"where": place < n + 3, "weights": (place < n).astype(np.float32)})]
    if case.rows:
        dirty, clean = soiled(batch, truth, column=True)
        kept = np.arange(dirty.x.shape[1]) < batch.x.shape[1]
        found += [(dirty, clean, {"where": np.broadcast_to(kept, dirty.x.shape)})]
    return found


def empty(tally: Tally, case: Case) -> None:
    """No example at all: the shape of the losses and of the gradient, and no NaN."""
    shape = (0, 3) if case.rows else (0,)
    x, t = jnp.zeros(shape), jnp.zeros(shape[:1], np.int32) if case.target_domain is INDEX else jnp.zeros(shape)
    nothing = Inputs(np.zeros(shape), np.asarray(t), np.ones(3) if case.rows else np.ones(1))
    gradient = of_jax(case, [nothing], np.float32)["gradient"][0]
    good = [case(x, t).shape == (0,), gradient.shape == shape, *(case(x, t, reduction=r) == 0 for r in ("sum", "mean"))]
    for each in good:
        tally.counts[OURS, name(case), "empty", "right" if each else "wrong"] += 1


# The sweep.


def planted(case: Case, dtype) -> list[Inputs]:
    found: list[Inputs] = (others if case in others.PLANTED else extremes_truth).inputs(case, dtype)
    if not case.name.startswith("softmax_total_variation"):
        return found
    # Of rows that are shifted by 1e5 the rounding of the inputs decides which probability is the larger one.
    kept = [~((largest > 5e4) & (largest < 2e6)) for largest in (np.abs(b.t).max(-1) for b in found)]
    return [b._replace(x=b.x[k], t=b.t[k]) for b, k in zip(found, kept, strict=True) if k.any()]


def sweep(cases: Iterable[Case], libraries: Iterable[str] = (OURS,), dtypes: Iterable = DTYPES) -> Tally:
    tally = Tally(Counter(), [], {})
    known: dict[tuple, list] = {}  # several losses have one formula
    for case in cases:
        for dtype in dtypes:
            batches = planted(case, dtype)
            options = repr(sorted((case.options | case.static).items()))
            key = case.formula, options, case.rows, case.predictions, case.target_domain, dtype
            if key not in known or case in others.PLANTED:
                known[key] = [truths(case, batch) for batch in batches]
            for library in libraries:
                try_one(tally, library, case, dtype, batches, known[key])
    return tally


def try_one(tally: Tally, library: str, case: Case, dtype, batches: list[Inputs], truth: list) -> None:
    call = case if library == OURS else PEERS[library].get(name(case))
    if call is None:
        return
    run = of_torch if library == "torch" else of_jax
    modes = MODES[:1] if (library, case.id) in ONLY_VALUES else MODES
    if library == "keras" and case.rows and len(batches) > 1:  # it warns that one class is none
        batches, truth = batches[1:], truth[1:]
    judge(tally, library, case, dtype, batches, truth, run(call, batches, dtype, modes))
    if dtype != np.float32 or case in others.PLANTED:
        return
    if library == OURS:
        empty(tally, case)
    if library == OURS or case.id in (*MASKED.get(library, ()), *IGNORED.get(library, ())):
        one = -2 if case.rows else 0  # of three classes
        dirty, clean, masks = zip(*masked(library, case, batches[one], truth[one]), strict=True)
        judge(tally, library, case, dtype, dirty, clean, run(call, dirty, dtype, modes, masks), "masks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="try the peers too")
    parser.add_argument("--only", default="", help="losses whose names contain this")
    arguments = parser.parse_args()
    from extremes_page import by_loss, examples, page, rewritten, tables
    from tqdm import tqdm

    found = [library for library in PEERS if importlib.util.find_spec(library)] if arguments.peers else []
    libraries = [OURS, *found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers
        tally = sweep(tqdm([case for case in ALL if arguments.only in case.id]), libraries)
    rows, shown = by_loss(tally, libraries, COLUMNS), examples(tally, libraries, COLUMNS)
    print(*tables(rows, shown, COLUMNS), sep="\n\n")
    if set(libraries) == {OURS, *PEERS} and not arguments.only:
        PAGE.write_text(page(rows, shown, libraries, COLUMNS))
    else:
        PAGE.write_text(rewritten(PAGE.read_text(), rows, shown, list(map(name, ALL)), COLUMNS))


if __name__ == "__main__":
    main()
