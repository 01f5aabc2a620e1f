"""BENCHMARKS.md, from all result files."""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from tabulate import tabulate

from . import charts, records
from .cases import BOTH, CASES, CPU_NOTE
from .compile_only import FILE, largest
from .measure import SHORTEST
from .records import shape_and_dtype
from .targets import ABSENT

Record = dict[str, Any]
EQUAL = 0.05
PEERS = ("optax", "keras", "plain", "torch", "torch.compile", "liger")
SHOWN = ("jaxloss", *PEERS)
ORDER = [case.loss for case in CASES]
SMALL = {case.loss for case in CASES if case.dtypes != BOTH}
GROUPS: tuple[tuple[str, str, Callable[[Record], bool]], ...] = (
    ("Cross entropies of a softmax", "softmax", lambda r: r["loss"].startswith("softmax")),
    ("Elements and features", "elements", lambda r: r["loss"] not in SMALL and not r["loss"].startswith("softmax")),
    ("More losses", "more", lambda r: r["loss"] in SMALL),
)
MISSING = "not measured"
TOO_LARGE = "too large"

HEAD = """# Benchmarks

Value and gradient of each loss, under `jit`, beside what people use today. This page and its charts are written by the
command that measures:

```
make bench                              # in an environment of its own, with JAX for CPUs; or, in yours,
python -m benchmarks                    # [--only NAME] [--device cpu|gpu|tpu] [--quick]
make bench-compile PYTHON=python3.12    # memory and collectives on TPUs and GPUs, without one
```

It finds the device, names the peers that are missing, and replaces the results of this device in `benchmarks/results/`;
those of other devices stay. `--only` replaces single cases. On a GPU: `pip install 'jax[cuda13]' -e '.[bench,peers]'
liger-kernel`, then `python -m benchmarks --device gpu`.
"""

QUICK = "**A quick run on small arrays: it shows that all works, and no number below counts.**"

METHOD = f"""## How it is measured

- **A case** is a loss, a shape (rows × classes) and a dtype; the program is value and gradient, by the predictions, of
  the mean. Inputs are random and ready on the device, the same memory for JAX and PyTorch.
- **Candidates**: optax; Keras on JAX; PyTorch, eager, and compiled (`torch.compile`, forward and backward), with its
  default number of threads; on a GPU Liger; *plain*, the loss as people write it in `jax.numpy`, in float32 at least.
  An empty cell: it has no such loss. Libraries that start from hidden states (cut-cross-entropy, tokamax, jax-cce) have
  nothing to put beside these cases.
- **Columns**: *time*, *temporaries* and *error* are ours; *over optax (its error)* is our time over that of optax.
- **Rounds**: compiled and run once before; then each round calls every candidate, in random order, each often enough to
  take {1e3 * SHORTEST["cpu"]:.0f} ms (on accelerators {1e3 * SHORTEST["gpu"]:.0f} ms). A ratio is that of two times of
  one round; the tables show the median over 9 to 40 rounds, the details below them the 20th and the 80th percentile,
  too.
- **Noise**: in each round our loss runs twice. `≈` says that the rounds cannot tell two candidates apart: their median
  ratio is within {EQUAL:.0%} of 1, or nearer to 1 than that of our loss to itself, or the middle 60 % of the ratios
  contains 1. **Bold**: we are faster beyond that. Neither: we are slower.
- **The two-pass time**, the floor of the charts, is that of the bytes of a loss that does nothing else: inputs read
  twice, for the value and for the gradient, and the gradient written. In each round a copy of the predictions is timed,
  and a program of one number; it is the latter plus what the former adds to it, in proportion to the bytes. (Operations
  over the rate of a large matrix product never take longer here.) What reads once, or only the label's entry of each
  row, falls below 1. At 256×10 everything is the time of a call.
- **Errors** are against the plain form in float64: of the value, over the mean size of the losses; of the gradient, the
  largest error over the largest entry. The tables show the larger of the two. Inputs are random, so these show that
  nobody computes something else, and what half precision costs: below 5e-7 they are a few roundings of float32 and no
  ranking; a gradient in bfloat16 is rounded to 2e-3; Keras clips probabilities and adds 1e-7. The tails of a loss are
  in `examples/stability.py` and the tests.
- **Temporaries** are bytes beside inputs and outputs: what XLA plans, and what PyTorch's allocator counts.
- **Of the copy** is the bandwidth, the floor's bytes over our time, as a share of that of a large copy of the same run.
- **Memory is kept**: the allocator does not return pages between calls, as on accelerators. With glibc's defaults a
  copy of 500 MB on a CPU took nine times as long, for its fresh pages, and some candidates met them and some did not.
"""


def write(output: pathlib.Path) -> pathlib.Path:
    files = sorted((output / "benchmarks" / "results").glob("*.json"))
    measured = [_in_order(records.load(file)) for file in files if file.name != FILE]
    quick = any("--quick" in session["command"] for result in measured for session in result["sessions"])
    text = [QUICK] * quick + [HEAD, _glance(measured), METHOD]
    for result in measured:
        text += _device(result, output)
    if any(result["device"]["platform"] == "cpu" for result in measured):
        text.append(_notes())
    compiled = _in_order(records.load(output / "benchmarks" / "results" / FILE))
    if compiled["records"]:
        text += _compiled(compiled, output)
    output.mkdir(parents=True, exist_ok=True)
    page = output / "BENCHMARKS.md"
    page.write_text("\n".join(part.rstrip() + "\n" for part in text))
    return page


def _in_order(result: Record) -> Record:
    """That of the table of cases, without those that are no longer there."""
    return result | {"records": sorted((r for r in result["records"] if r["loss"] in ORDER), key=_place)}


def _place(record: Record) -> tuple:
    return ORDER.index(record["loss"]), record["dtype"] == "bfloat16", -math.prod(record["shape"])


def _name(record: Record) -> str:
    return f"`{record['loss']}`"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(headers))


def is_equal(spread: list[float], again: list[float]) -> bool:
    """Whether ours and theirs differ by no more than noise."""
    low, middle, high = spread
    return low <= 1 <= high or abs(math.log(middle)) <= max(math.log(1 + EQUAL), abs(math.log(again[1])))


def _ratio(record: Record, peer: str) -> str:
    if peer not in record["candidates"]:
        return ""
    spread = record["candidates"][peer]["ours_over_it"]
    ratio = f"{spread[1]:.2f}"
    return f"{ratio} ≈" if is_equal(spread, record["again"]) else f"**{ratio}**" if spread[1] < 1 else ratio


def _error(candidate: Record) -> str:
    return f"{max(candidate['value_error'], candidate['gradient_error']):.0e}".replace("e-0", "e-")


def _glance(measured: list[Record]) -> str:
    """Ours over the fastest other of each case, a column a device."""
    columns = {
        platform: [r for r in measured if r["device"]["platform"] == platform] for platform in ("cpu", "gpu", "tpu")
    }
    headers, lookups = ["loss", "shape"], []
    for platform, results in columns.items():
        headers += [r["device"]["name"] for r in results] or [platform.upper()]
        lookups += [{records.key(r): r for r in result["records"]} for result in results] or [{}]
    cases = {records.key(r): r for result in measured for r in result["records"] if r["loss"] not in SMALL}
    rows = []
    for key, record in sorted(cases.items(), key=lambda item: _place(item[1])):
        rows.append([_name(record), shape_and_dtype(record), *(_fastest(found.get(key)) for found in lookups)])
    return (
        "## At a glance\n\nThe time of jaxloss over that of the fastest other candidate: **bold**: we are "
        "faster; `≈`: within noise. The error (against float64) is ours, then theirs. "
        f"`{MISSING}` means that nobody has run the command there. {len(ORDER) - len(SMALL)} losses of {len(ORDER)}: "
        "the others follow under More losses.\n\n" + _table(rows, headers)
    )


def _fastest(record: Record | None) -> str:
    if record is None:
        return MISSING
    others = {name: c for name, c in record["candidates"].items() if name != "jaxloss"}
    name = max(others, key=lambda name: others[name]["ours_over_it"][1])
    return f"{_ratio(record, name)} of {name} ({_error(record['candidates']['jaxloss'])}, {_error(others[name])})"


def _provenance(result: Record) -> tuple[str, Callable[[Record], str]]:
    """Where the numbers come from; and, if that is from several runs, which of them a record is from."""
    several = len(result["sessions"]) > 1
    lines = []
    for number, session in enumerate(result["sessions"], 1):
        versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        best = ""
        if ceilings := session.get("ceilings"):
            copy, f32, bf16 = (ceilings[f] for f in ("copy_gbps", "matmul_float32_tflops", "matmul_bfloat16_tflops"))
            best = f" Ceilings of that run: copy {copy:.0f} GB/s, read and written; matrix product {f32:.2g} (f32) and "
            best += f"{bf16:.2g} TFLOP/s (bf16)."
        lines.append(
            f"- {f'run {number}: ' if several else ''}`{session['command']}`, {session['date']}, commit "
            f"{session['commit']}: {versions}.{best}"
        )
    mark = (lambda r: f" <sup>run {r['session'] + 1}</sup>") if several else (lambda r: "")
    return "\n".join(lines), mark


def _source(result: Record) -> str:
    last = result["sessions"][-1]
    return f"JAX {last['versions']['jax']}, {last['date']}"


def _device(result: Record, output: pathlib.Path) -> Iterator[str]:
    device = result["device"]
    provenance, mark = _provenance(result)
    yield f"## {device['name']}\n\n{provenance}"
    slug = records.slug(device["name"])
    for title, part, belongs in GROUPS:
        group = [r for r in result["records"] if belongs(r)]
        if not group:
            continue
        file = f"benchmarks/results/{slug}-{part}"
        shown = [name for name in SHOWN if any(name in r["candidates"] for r in group)]
        charts.times(group, shown, f"{device['name']}; {_source(result)}", output / file)
        picture = _picture(file, f"{title}: time over the two-pass time, and temporaries")
        yield f"### {title}, {device['name']}\n\n{picture}"
        peers = [peer for peer in PEERS if any(peer in r["candidates"] for r in group)]
        headers = ["loss", "shape", "time", "over two passes", "of the copy", "temporaries", "error"]
        headers += [f"over {peer} (its error)" for peer in peers]
        ceiling = {i: s["ceilings"]["copy_gbps"] for i, s in enumerate(result["sessions"])}
        yield _table([_row(r, peers, mark, ceiling[r["session"]]) for r in group], headers)
        yield _details(group)


def _row(record: Record, peers: list[str], mark: Callable[[Record], str], copy_gbps: float) -> list[str]:
    ours = record["candidates"]["jaxloss"]
    share = record["bytes"] / 1e6 / ours["ms"] / copy_gbps
    cells = [
        f"{_ratio(record, peer)} ({_error(record['candidates'][peer])})" if peer in record["candidates"] else ""
        for peer in peers
    ]
    return [
        _name(record) + mark(record),
        shape_and_dtype(record),
        f"{_digits(ours['ms'])} ms",
        f"{ours['of_floor'][1]:.1f}",
        f"{share:.0%}",
        f"{_mib(ours['temp_bytes'])} MiB",
        _error(ours),
        *cells,
    ]


def _notes() -> str:
    notes = [f"- `{case.loss}`: {case.cpu_note}" for case in CASES if case.cpu_note]
    return f"## Where the time goes on a CPU\n\n{CPU_NOTE}\n\n" + "\n".join(notes)


def _details(group: list[Record]) -> str:
    def spread(ratios: list[float]) -> str:
        low, middle, high = ratios
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    rows = []
    for record in group:
        for name, c in record["candidates"].items():
            compile_seconds = "" if c["compile_s"] is None else f"{c['compile_s']:.2f} s"
            rows.append(
                [
                    _name(record),
                    shape_and_dtype(record),
                    name,
                    f"{_digits(c['ms'])} ms",
                    spread(c["of_floor"]),
                    spread(c["ours_over_it"]),
                    compile_seconds,
                    MISSING if c["temp_bytes"] is None else f"{_mib(c['temp_bytes'])} MiB",
                    f"{c['value_error']:.0e}",
                    f"{c['gradient_error']:.0e}",
                ]
            )
        rows.append(
            [_name(record), shape_and_dtype(record), "jaxloss, twice", "", "", spread(record["again"]), "", "", "", ""]
        )
    headers = ["loss", "shape", "candidate", "time", "over two passes", "ours over it", "compilation", "temporaries"]
    headers += ["error of the value", "of the gradient"]
    return (
        "<details><summary>Every candidate: time, spread, compilation, memory and errors</summary>\n\n"
        + _table(rows, headers)
        + "\n\n</details>"
    )


def _compiled(result: Record, output: pathlib.Path) -> Iterator[str]:
    provenance, _ = _provenance(result)
    file = "benchmarks/results/compile-only"
    main = [r for r in result["records"] if r["loss"] not in SMALL]
    charts.temporaries(main or result["records"], _source(result), output / file)
    yield (
        "## TPUs and GPUs: compiler estimate, no device\n\n"
        "Every case, compiled for a device that was not there. These are the compilers' statements of memory: no time "
        "is among them, and nothing has been compared with a device. *Peak* is the compiler's figure for everything at "
        f"once, inputs and outputs included; `{TOO_LARGE}` is what it refuses for the memory of one device (compilers "
        "for GPUs refuse nothing). Operations (floating point) and bytes are analytic: of the plain form and its "
        "gradient, and of two passes. Memory is in MiB. *On four* is our loss on a "
        "mesh of 2×2, rows split over one axis and classes over the other, for each device: its temporaries, and the "
        "largest array that devices exchange.\n\n" + provenance
    )
    yield _picture(file, "Temporaries over the size of the predictions, for each target")
    for target, name in ABSENT.items():
        group = [r for r in result["records"] if r["target"] == target]
        if not group:
            continue
        names = [n for n in ("jaxloss", "optax", "plain") if any(n in r["candidates"] for r in group)]
        headers = ["loss", "shape", "operations", "bytes"]
        headers += [f"{n}: temporaries, peak" for n in names] + ["on four: temporaries", "exchange"]
        yield f"### {name}: compiler estimate, no device"
        yield (
            f"<details{' open' if target == 'v6e' else ''}><summary>{name}, MiB</summary>\n\n"
            + _table([_compiled_row(r, names) for r in group], headers)
            + "\n\n</details>"
        )


def _compiled_row(record: Record, names: list[str]) -> list[str]:
    cells = []
    for name in names:
        c = record["candidates"].get(name)
        cells.append("" if c is None else f"{_mib(c['temp_bytes'])}, {_mib(c['peak_bytes'])}")
    split = record["split"]
    exchange = f"{len(split['collectives'])} all-reduce" if _only_all_reduce(split) else ", ".join(split["collectives"])
    if split["collectives"]:
        exchange += f", at most {_bytes(largest(split['collectives']))}"
    return [
        _name(record),
        shape_and_dtype(record),
        f"{record['flops']:.2e}",
        f"{record['bytes']:.2e}",
        *cells,
        _mib(split["temp_bytes"]),
        exchange,
    ]


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB" if count < 2**20 else f"{count / 2**20:.0f} MiB"


def _only_all_reduce(split: Record) -> bool:
    return all(line.startswith("all-reduce") for line in split["collectives"])


def _picture(file: str, alt: str) -> str:
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{file}-dark.svg">'
    return f'<picture>{dark}<img alt="{alt}" src="{file}-light.svg"></picture>'


def _digits(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def _mib(count: int | None) -> str:
    if count is None:
        return TOO_LARGE
    mib = count / 2**20
    return "0" if mib < 0.01 else f"{mib:.2f}" if mib < 1 else f"{mib:.1f}" if mib < 100 else f"{mib:.0f}"
