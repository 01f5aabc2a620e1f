"""How numbers, names and origins look in BENCHMARKS.md."""

from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from .cases import BOTH, CASES

Record = dict[str, Any]
OF_SEQUENCES = {case.loss for case in CASES if len(case.quick) == 4}  # batch, frames, labels, classes
SMALL = {case.loss for case in CASES if case.dtypes != BOTH} - OF_SEQUENCES  # measured once
OF_PRODUCTS = {case.loss for case in CASES if case.products}
RATES = {"float32": "f32", "tf32": "f32 rounded to TF32", "bfloat16": "bf16"}
MISSING = "not measured"
TOO_LARGE = "too large"


def name(record: Record) -> str:
    return f"`{record['loss']}`" + (f", {record['variant']}" if record.get("variant") else "")


def table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(headers))


def provenance(result: Record) -> tuple[str, Callable[[Record], str]]:
    """Where the numbers come from; and, if that is from several runs, which of them a record is from."""
    several = len(result["sessions"]) > 1
    lines = []
    for number, session in enumerate(result["sessions"], 1):
        versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        best = ""
        if ceilings := session.get("ceilings"):
            found = {name: ceilings.get(f"matmul_{key}_tflops") for key, name in RATES.items()}
            rates = " and ".join(f"{rate:.2g} ({name})" for name, rate in found.items() if rate)
            best = f" Ceilings of that run: copy {ceilings['copy_gbps']:.0f} GB/s, read and written; matrix product "
            best += f"{rates} TFLOP/s."
        lines.append(
            f"- {f'run {number}: ' if several else ''}`{session['command']}`, {session['date']}, commit "
            f"{session['commit']}: {versions}.{best}"
        )
    mark = (lambda r: f" <sup>run {r['session'] + 1}</sup>") if several else (lambda r: "")
    return "\n".join(lines), mark


def source(result: Record, shown: list[Record]) -> str:
    """Of the newest session of the records that are shown."""
    last = result["sessions"][max(record["session"] for record in shown)]
    return f"JAX {last['versions']['jax']}, {last['date']}"


def picture(file: str, alt: str) -> str:
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{file}-dark.svg">'
    return f'<picture>{dark}<img alt="{alt}" src="{file}-light.svg"></picture>'


def size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB" if count < 2**20 else f"{count / 2**20:.0f} MiB"


def digits(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def mib(count: int | None) -> str:
    if count is None:
        return TOO_LARGE
    mib = count / 2**20
    return "0" if mib < 0.01 else f"{mib:.2f}" if mib < 1 else f"{mib:.1f}" if mib < 100 else f"{mib:.0f}"
