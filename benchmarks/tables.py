"""How numbers, names and origins look in the pages."""

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
    """Unaligned: a new number changes its own row alone."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign=None)


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def provenance(result: Record) -> str:
    """The versions, once for all runs that had the same, and the runs."""
    versions: dict[str, list[str]] = {}
    for number, session in enumerate(result["sessions"], 1):
        text = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        versions.setdefault(text, []).append(str(number))
    runs = [
        [str(number), f"`{session['command']}`", session["date"], session["commit"], _ceilings(session)]
        for number, session in enumerate(result["sessions"], 1)
    ]
    headers = ["run", "command", "date", "commit", "copy, GB/s; matrix product, TFLOP/s"]
    if not any("ceilings" in session for session in result["sessions"]):
        runs, headers = [run[:-1] for run in runs], headers[:-1]
    of_runs = [[", ".join(numbers), text] for text, numbers in versions.items()]
    return f"{table(of_runs, ['runs', 'versions'])}\n\n{table(runs, headers)}"


def _ceilings(session: Record) -> str:
    if not (ceilings := session.get("ceilings")):
        return ""
    found = {name: ceilings.get(f"matmul_{key}_tflops") for key, name in RATES.items()}
    rates = ", ".join(f"{rate:.2g} ({name})" for name, rate in found.items() if rate)
    return f"{ceilings['copy_gbps']:.0f}; {rates}"


def mark_of_runs(result: Record) -> Callable[[Record], str]:
    """Which run a record is from, if there are several."""
    several = len(result["sessions"]) > 1
    return (lambda record: f" <sup>run {record['session'] + 1}</sup>") if several else (lambda record: "")


def source(result: Record, shown: list[Record]) -> str:
    """Of the newest session of the records that are shown."""
    last = result["sessions"][max(record["session"] for record in shown)]
    return f"JAX {last['versions']['jax']}, {last['date']}"


def picture(file: str, alt: str) -> str:
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{file}-dark.svg">'
    return f'<picture>{dark}\n<img alt="{alt}" src="{file}-light.svg"></picture>'


def size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB" if count < 2**20 else f"{count / 2**20:.0f} MiB"


def digits(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def mib(count: int | None) -> str:
    if count is None:
        return TOO_LARGE
    mib = count / 2**20
    return "0" if mib < 0.01 else f"{mib:.2f}" if mib < 1 else f"{mib:.1f}" if mib < 100 else f"{mib:.0f}"
