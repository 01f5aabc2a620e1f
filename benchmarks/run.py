"""All cases on the device at hand."""

import pathlib
from typing import Any

from tqdm import tqdm

from . import records
from .candidates import missing
from .cases import CASES, Case, Shape
from .measure import ceilings, record
from .targets import at_hand


def chosen(only: list[str], *, accelerator: bool, quick: bool) -> list[tuple[Case, Shape, str]]:
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


def measure_all(only: list[str], quick: bool, output: pathlib.Path, session: dict[str, Any]) -> None:
    device = at_hand()
    todo = chosen(only, accelerator=device.platform != "cpu", quick=quick)
    print(f"{device.name}; JAX {session['versions']['jax']}")
    for peer, reason in missing(device.platform).items():
        print(f"skipped {peer}: {reason}")
    session["ceilings"] = found = ceilings(quick)
    file = output / "benchmarks" / "results" / f"{records.slug(device.name)}.json"
    old, new = records.load(file) | {"device": device._asdict()}, []
    for case, shape, dtype in (bar := tqdm(todo)):
        bar.set_description(f"{case.loss} {list(shape)} {dtype}")
        new.append(record(case, shape, dtype, device.platform, found, quick))
        records.save(file, records.merge(old, session, new))  # what is cut off leaves what it had
