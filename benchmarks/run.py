"""All cases on the device at hand, or the short list, as long as there is time."""

import contextlib
import functools
import gc
import pathlib
import sys
import time
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from . import eager, headline, measure, records
from .candidates import missing
from .cases import BEYOND_CACHES, CASES, Case, Shape
from .measure import Limits, most_tokens, reason, record
from .targets import at_hand

Run = tuple[Case, Shape, str]


class Task(NamedTuple):
    names: dict[str, Any]  # of the record, by which it replaces an older one
    measure: Callable[[], dict[str, Any]]


def chosen(only: list[str], *, accelerator: bool, quick: bool) -> list[Run]:
    if unknown := [part for part in only if not any(part in case.loss for case in CASES)]:
        raise SystemExit(f"--only: expected parts of {', '.join(c.loss for c in CASES)}, got {', '.join(unknown)}.")
    return [
        (case, shape, dtype)
        for case in CASES
        if any(part in case.loss for part in only)
        for shape, dtype in (
            case.runs(accelerator=accelerator) if not quick else [(case.quick, d) for d in case.dtypes]
        )
    ]


def everything(only: list[str], *, accelerator: bool, quick: bool) -> list[Run]:
    runs = chosen(only, accelerator=accelerator, quick=quick)
    if not accelerator or quick:
        return runs
    runs = [(c, shape if c.on_accelerators else BEYOND_CACHES.get(shape, shape), d) for c, shape, d in runs]
    return runs + [(case.highest(), *rest) for case, *rest in runs if case.loss in headline.TF32]


def tasks(
    cases: str, only: list[str], platform: str, quick: bool, ceilings: dict[str, float], limits: Limits
) -> list[Task]:
    def of_case(case: Case, shape: Shape, dtype: str) -> Task:
        names = {"loss": case.loss, "shape": list(shape), "dtype": dtype}
        names |= {"variant": case.variant} if case.variant else {}
        return Task(names, functools.partial(record, case, shape, dtype, platform, ceilings, quick, limits))

    def of_rows(rows: list[headline.Row]) -> list[Task]:
        shapes = [(r.case.quick if quick else r.on_cpu if platform == "cpu" else r.shape) for r in rows]
        return [of_case(row.case, shape, row.dtype) for row, shape in zip(rows, shapes, strict=True)]

    def of_tokens() -> Task:
        most, *shape = headline.TOKENS[platform]
        head = headline.case("linear_cross_entropy")
        names = {"kind": "tokens", "loss": head.loss, "shape": shape, "dtype": "bfloat16"}
        return Task(names, functools.partial(most_tokens, head, (most, *shape), "bfloat16", platform, limits))

    def of_eager() -> list[Task]:
        return [
            Task(
                {"kind": "eager", "loss": case.loss, "shape": list(shape), "dtype": "float32"},
                functools.partial(eager.record, case, shape, limits),
            )
            for case, shape in eager.SMALL
        ]

    if cases == "headline":
        found = [*of_rows(headline.FIRST), of_tokens(), *of_rows(headline.LAST)]
    elif cases == "all":
        found = [of_case(*run) for run in everything(only, accelerator=platform != "cpu", quick=quick)]
    else:
        found = []
    return [task for task in [*found, *of_eager()] if any(part in task.names["loss"] for part in only)]


def measure_all(
    cases: str,
    only: list[str],
    quick: bool,
    folder: pathlib.Path,
    session: dict[str, Any],
    deadline: float,
) -> None:
    device = at_hand()
    chosen(only, accelerator=False, quick=True)  # names that are none are an error before anything is measured
    print(f"{device.name}; JAX {session['versions']['jax']}; commit {session['commit']}")
    absent = missing(device.platform)
    for peer, why in absent.items():
        print(f"skipped {peer}: {why}")
    session["ceilings"] = measure.ceilings(quick)
    file = folder / f"{records.slug(device.name)}.json"
    old, new = records.load(file) | {"device": device._asdict()}, []
    limits = measure.limits_of(device.platform, quick=quick, short=cases == "headline", deadline=deadline)
    todo = tasks(cases, only, device.platform, quick, session["ceilings"], limits)
    start = time.monotonic()
    for number, task in enumerate(todo, 1):
        if time.monotonic() > deadline:
            print(f"no time left: {len(todo) - number + 1} of {len(todo)} records were not started")
            break
        new.append(task.names | measured(task, device.platform))
        records.save(file, records.merge(old, session, new))  # what is cut off leaves what it had
        print(f"[{number}/{len(todo)}, {time.monotonic() - start:.0f} s] {summary(new[-1], absent)}", flush=True)
    if new:
        print("wrote", file)


def measured(task: Task, platform: str) -> dict[str, Any]:
    """The record; that it cannot be measured is one too, and no end of the others."""
    try:
        return task.measure()
    except Exception as error:
        return {"candidates": {}, "skipped": {"jaxloss": reason(error)}}
    finally:
        gc.collect()
        if platform == "gpu" and "torch" in sys.modules:
            with contextlib.suppress(Exception):  # an error of a kernel comes back at each later call
                sys.modules["torch"].cuda.empty_cache()  # what PyTorch keeps, JAX cannot use


def summary(record: dict[str, Any], absent: Container[str] = ()) -> str:
    """A line; it does not repeat who is absent."""
    parts = []
    for name, found in record["candidates"].items():
        numbers = [f"{key[:-2].replace('_', ' ')}{found[key]:.3g} ms" for key in found if key.endswith("ms")]
        numbers += [f"{found['tokens']} tokens"] if "tokens" in found else []
        parts.append(f"{name} {', '.join(numbers)}")
    parts += [f"{name}: {why}" for name, why in record["skipped"].items() if name not in absent]
    names = record.get("kind"), record["loss"], record.get("variant"), records.shape_and_dtype(record)
    return f"{' '.join(filter(None, names))}: {'; '.join(parts)}"
