"""Calls without `jit`: their time beside optax, their compilations, and the memory that stays.

python -m benchmarks.eager [--only NAME ...] [--calls N]    # compilations and memory: each row of tests/cases.py
"""

import argparse
import functools
import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxloss

from .candidates import Candidate
from .cases import CASES, Case, Shape
from .measure import Limits, draw, reason, rounds, spread

LOSSES = ("softmax_cross_entropy_with_integer_labels", "sigmoid_binary_cross_entropy", "huber_loss", "ctc_loss")
# So small that the time is that of Python and of the dispatch.
SMALL: list[tuple[Case, Shape]] = [
    (case, (4, 20, 5, 8) if case.loss == "ctc_loss" else (64, 32)) for case in CASES if case.loss in LOSSES
]
PROGRAMS = ("value", "gradient")
COMPILATION = "/jax/core/compile/backend_compile_duration"
COUNTED = 3  # calls


def record(case: Case, shape: Shape, limits: Limits) -> dict[str, Any]:
    """Milliseconds of a call for the losses, and for the gradient of their mean, and ours over that of optax."""
    x, t = draw(case, shape, "float32")
    forms, skipped = {"jaxloss": case.call or getattr(jaxloss, case.loss)}, {}
    (optax,) = (peer for peer in case.peers if peer.name == "optax")
    if importlib.util.find_spec("optax"):
        forms["optax"] = optax.call(importlib.import_module("optax"))
    else:
        skipped["optax"] = "not installed"
    everybody = {}
    for name, form in forms.items():
        try:
            for program, call in zip(PROGRAMS, programs(form), strict=True):
                jax.block_until_ready(call(x, t))  # compiles
                run = functools.partial(call, x, t)
                everybody[f"{name} {program}"] = Candidate(run, jax.block_until_ready, np.asarray, None, None)
        except Exception as error:
            skipped[name] = reason(error)
    times, failed = rounds(everybody, limits)
    facts: dict[str, dict[str, Any]] = {name: {} for name in forms if name not in skipped}
    for name, fact in facts.items():
        for program in (program for program in PROGRAMS if f"{name} {program}" in times):
            fact[f"{program}_ms"] = 1e3 * float(np.median(times[f"{name} {program}"]))
            if f"jaxloss {program}" in times:
                fact[f"{program}_ours_over_it"] = spread(times[f"jaxloss {program}"] / times[f"{name} {program}"])
    return {"candidates": facts, "skipped": skipped | failed}


def programs(form: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The losses, and the gradient of their mean, as people call them without `jit`."""

    def mean(x: Any, t: Any) -> Any:
        return form(x, t).mean()

    return form, lambda x, t: jax.grad(mean)(x, t)


def compilations(call: Callable[[], Any]) -> float:
    """Of each call after the first."""
    seen = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        seen.extend([event] * (event == COMPILATION))

    jax.block_until_ready(call())
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(COUNTED):
            jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(seen) / COUNTED


def growth(calls: list[Callable[[], Any]], count: int) -> float:
    """KiB of resident memory that stay of each call, over that many in turn."""
    before = _resident()
    for number in range(count):
        jax.block_until_ready(calls[number % len(calls)]())
    return (_resident() - before) / 1024 / count


def _resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])  # Linux
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eager", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="losses whose names contain one")
    parser.add_argument("--calls", type=int, default=300, help="over which memory grows")
    options = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
    cases = importlib.import_module("cases")

    print(f"{'value':>8} {'grad':>8} {'jvp':>8}   {'KiB a call':>10}   compilations of each call after the first")
    for case in cases.CASES:
        if not any(part in case.name for part in options.only):
            continue
        x, t = case.draw(np.random.default_rng(0), 8)

        def total(x: Any, case: Any = case, t: Any = t) -> Any:
            return case(x, t).sum()

        calls = [
            functools.partial(case, x, t),
            functools.partial(lambda total, x: jax.grad(total)(x), total, x),
            functools.partial(jax.jvp, total, (x,), (x,)),
        ]
        counts = " ".join(f"{compilations(call):8.1f}" for call in calls)
        print(f"{counts}   {growth(calls, options.calls):10.1f}   {case.id}", flush=True)


if __name__ == "__main__":
    main()
