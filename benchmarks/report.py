"""BENCHMARKS.md, the pages behind it and the charts, from all result files."""

import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from . import charts, method, records, report_compiled, report_device, tables
from .cases import CASES
from .comparison import (
    GROUPS,
    ORDER,
    fastest_other,
    in_order,
    is_comparable,
    is_dispatch,
    is_slower,
    over_fastest,
    ratio,
)
from .compile_only import FILE
from .records import shape_and_dtype
from .tables import Record
from .targets import ABSENT

RESULTS = pathlib.PurePath("benchmarks/results")
SUMMARY = "BENCHMARKS.md"
PLATFORMS = {"cpu": "CPUs", "gpu": "GPUs", "tpu": "TPUs"}
ROWS = 20  # of a chart, at most
NOTES = {case.loss: case.cpu_note for case in CASES}

HEAD = """# Benchmarks

Value and gradient of each loss, under `jit`, beside what people use today. `python -m benchmarks` measures, and writes
this page, the pages that it links and the charts:

```
make bench                              # in an environment of its own, with JAX for CPUs; or, in yours,
python -m benchmarks                    # [--only NAME ...] [--device cpu|gpu|tpu] [--quick]
python -m benchmarks --report           # measures nothing, writes the pages again
make bench-compile PYTHON=python3.12    # memory and collectives on TPUs and GPUs, without one
```

It finds the device, names the peers that are missing, and replaces the results of this device in `benchmarks/results/`.
On a GPU: `pip install 'jax[cuda13]' -e '.[bench,peers]' liger-kernel cut-cross-entropy`, then
`python -m benchmarks --device gpu`. [CONTRIBUTING.md](CONTRIBUTING.md) has the short list, for ten minutes.
tokamax and jax-cce are the extra `peers-linear`, which needs Python 3.12.
"""

QUICK = "**A quick run on small arrays: it shows that all works, and no number below counts.**"
READ = (
    "Our time over that of the fastest other candidate. **Below 1: jaxloss is faster.** Of several shapes, the worst.\n"
    "The slowest come first, with the reason where it is known."
)


class Chart(NamedTuple):
    title: str
    name: str  # of its files, without theme and suffix
    records: list[Record]


def write(output: pathlib.Path) -> pathlib.Path:
    """All that is made of the results in a folder, into the same folder."""
    for name, text in pages(output).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    for result in _measured(output):
        for chart in _charts(result):
            source = f"{result['device']['name']}; {tables.source(result, chart.records)}"
            charts.ratios(chart.records, chart.title, source, output / RESULTS / chart.name)
    report_compiled.write_guide(_compiled(output), output / "docs" / "large_vocabularies.md")
    return output / SUMMARY


def pages(output: pathlib.Path) -> dict[str, str]:
    """Each page by its path."""
    results, compiled = _measured(output), _compiled(output)
    found = {SUMMARY: _summary(results, compiled), _path("method"): [method.PAGE]}
    found |= {_path(_slug(result)): report_device.page(result) for result in results}
    if compiled["records"]:
        found[_path("compile-only")] = report_compiled.page(compiled)
    return {name: "\n".join(part.rstrip() + "\n" for part in parts) for name, parts in found.items()}


def _measured(output: pathlib.Path) -> list[Record]:
    files = sorted((output / RESULTS).glob("*.json"))
    return [in_order(records.load(file)) for file in files if file.name != FILE]


def _compiled(output: pathlib.Path) -> Record:
    return in_order(records.load(output / RESULTS / FILE))


def _path(name: str) -> str:
    return str(RESULTS / f"{name}.md")


def _slug(result: Record) -> str:
    return records.slug(result["device"]["name"])


def _summary(results: list[Record], compiled: Record) -> Iterator[str]:
    if any("--quick" in session["command"] for result in results for session in result["sessions"]):
        yield QUICK
    yield HEAD
    yield _where(results, compiled)
    for result in results:
        name = result["device"]["name"]
        yield f"## {name}\n\n{READ}\n\n{_worst(result)}"
        pictures = (tables.picture(str(RESULTS / chart.name), f"{chart.title}, {name}") for chart in _charts(result))
        yield f"## Charts, {name}\n\n" + "\n\n".join(pictures)
    yield method.SHORT
    yield f"More in [method.md]({_path('method')}): floors, errors, memory, noise."


def _where(results: list[Record], compiled: Record) -> str:
    rows = []
    for result in results:
        compared = {record["loss"] for record in result["records"] if is_comparable(record)}
        what = f"time, memory and errors of {len(compared)} losses of {len(ORDER)}"
        rows.append([result["device"]["name"], what, _dates(result), f"[all rows]({_path(_slug(result))})"])
    if compiled["records"]:
        devices = ", ".join(ABSENT[t] for t in ABSENT if any(r["target"] == t for r in compiled["records"]))
        what = "memory and exchange, as compilers say: no device, no time"
        rows.append([devices, what, _dates(compiled), f"[all rows]({_path('compile-only')})"])
    found = {result["device"]["platform"] for result in results}
    absent = " and ".join(name for platform, name in PLATFORMS.items() if platform not in found)
    text = tables.table(rows, ["device", "what", "when", "details"])
    return f"## What was measured where\n\n{text}\n\n" + (f"Times on {absent}: {tables.MISSING}." if absent else "")


def _dates(result: Record) -> str:
    dates = sorted(session["date"] for session in result["sessions"])
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def _worst(result: Record) -> str:
    """A row a loss and dtype."""
    worst: dict[tuple[str, str], Record] = {}
    for record in _compared(result):
        key = record["loss"], record["dtype"]
        worst[key] = max(worst.get(key, record), record, key=over_fastest)
    rows = [_row(record, result["device"]["platform"]) for record in sorted(worst.values(), key=_slowest_first)]
    return tables.table(rows, ["loss", "shape", "ratio", "beside", "why we are slower"])


def _compared(result: Record) -> list[Record]:
    """Without what takes no longer than its dispatch, if the loss has other rows."""
    found = [record for record in result["records"] if is_comparable(record)]
    longer = {record["loss"] for record in found if not is_dispatch(record)}
    return [record for record in found if not is_dispatch(record) or record["loss"] not in longer]


def _slowest_first(record: Record) -> float:
    return -over_fastest(record)


def _row(record: Record, platform: str) -> list[str]:
    shape = shape_and_dtype(record) + (", dispatch" if is_dispatch(record) else "")
    facts, peer = [f"`{record['loss']}`", shape], fastest_other(record)
    if peer is None:  # no time was left
        return [*facts, f"{tables.digits(record['candidates']['jaxloss']['ms'])} ms, alone", "", ""]
    why = NOTES[record["loss"]] if platform == "cpu" and is_slower(record, peer) else ""
    return [*facts, ratio(record, peer), peer, why]


def _charts(result: Record) -> list[Chart]:
    """A chart a group of losses, the slowest first; of a large group several."""
    found = []
    for group in GROUPS:
        of_group = [r for r in _compared(result) if group.belongs(r) and fastest_other(r)]
        of_group = sorted(of_group, key=_slowest_first)
        count = math.ceil(len(of_group) / ROWS)
        for number in range(count):
            part = of_group[number * len(of_group) // count : (number + 1) * len(of_group) // count]
            title = group.title + (f", {number + 1} of {count}" if count > 1 else "")
            name = f"{_slug(result)}-{group.part}" + (f"-{number + 1}" if count > 1 else "")
            found.append(Chart(title, name, part))
    return found
