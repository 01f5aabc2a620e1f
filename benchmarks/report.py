"""BENCHMARKS.md, from all result files."""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import charts, records, report_compiled, tables
from .cases import CASES, CPU_NOTE
from .compile_only import FILE
from .eager import PROGRAMS
from .linear import TOKENS
from .measure import SHORTEST
from .records import shape_and_dtype
from .tables import OF_PRODUCTS, OF_SEQUENCES, SMALL, Record

EQUAL = 0.05
DISPATCH = 0.05  # ms: below it, the time is that of the host
PEERS = tuple(name for name in charts.STYLES if name != "jaxloss")
OURS_AND_OPTAX = ("jaxloss", "optax")
FEW = 3  # cases that are named one by one
ORDER = [case.loss for case in CASES]


class Group(NamedTuple):
    title: str
    part: str  # of the names of its charts
    belongs: Callable[[Record], bool]
    floor: str = "two passes"
    whole: str = "the predictions"  # what temporaries are a share of


LINEAR = Group(
    "Without the logits",
    "linear",
    lambda r: r["loss"] in OF_PRODUCTS,
    floor="the products",
    whole="float32 logits",
)
GROUPS = (
    Group("Cross entropies of a softmax", "softmax", lambda r: r["loss"].startswith("softmax")),
    LINEAR,
    Group("Sequences", "sequences", lambda r: r["loss"] in OF_SEQUENCES),
    Group(
        "Elements and features",
        "elements",
        lambda r: r["loss"] not in SMALL | OF_PRODUCTS | OF_SEQUENCES and not r["loss"].startswith("softmax"),
    ),
    Group("More losses", "more", lambda r: r["loss"] in SMALL),
)

HEAD = """# Benchmarks

Value and gradient of each loss, under `jit`, beside what people use today. This page and its charts are written by the
command that measures:

```
make bench                              # in an environment of its own, with JAX for CPUs; or, in yours,
python -m benchmarks                    # [--only NAME ...] [--device cpu|gpu|tpu] [--quick]
make bench-compile PYTHON=python3.12    # memory and collectives on TPUs and GPUs, without one
```

It finds the device, names the peers that are missing, and replaces the results of this device in `benchmarks/results/`;
those of other devices stay. `--only` replaces single cases. On a GPU: `pip install 'jax[cuda13]' -e '.[bench,peers]'
liger-kernel cut-cross-entropy`, then `python -m benchmarks --device gpu`, about half an hour; CONTRIBUTING.md has the
short list, for ten minutes. tokamax and jax-cce are the extra `peers-linear`, which needs Python 3.12.
"""

QUICK = "**A quick run on small arrays: it shows that all works, and no number below counts.**"

METHOD = f"""## How it is measured

- **A case** is a loss, a shape (rows × classes; of a loss without the logits tokens × features × classes, of one of
  sequences batch × frames × labels × classes) and a dtype; the program is value and gradient, by the predictions, or by
  hidden states and weight, of the mean. Inputs are random and ready on the device, the same memory for JAX and PyTorch.
- **Candidates**: optax; Keras on JAX; PyTorch, eager, and compiled (`torch.compile`, forward and backward), with its
  default number of threads; on a GPU Liger; *plain*, the loss as people write it in `jax.numpy`, in float32 at least.
  An empty cell: it has no such loss.
- **Candidates without the logits**: *plain*, *optax*, *torch* and *torch.compile* have them, as the product
  `hidden @ weight`, plain in float32. *scan* is the loop over chunks of {TOKENS} tokens under `jax.checkpoint` that is
  pasted from trainer to trainer; *torch.chunked* is `F.linear_cross_entropy` with the options that PyTorch chooses;
  tokamax is its `linear_softmax_cross_entropy_loss` (`mosaic_tpu` on TPUs, else `chunked_xla`, which counts the classes
  that fill up its last block); jax-cce; on a GPU Liger's fused loss and Apple's cut_cross_entropy. Each has the weight
  laid out as it asks for.
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
- **The products**, the floor without the logits, are the three matrix products that no such loss does without, of the
  logits, of the gradient of the hidden states and of that of the weight, with sums in float32 and the logits rounded to
  the dtype of the inputs, timed in each round. What has fewer logits at a time may fall below 1: they stay in a cache.
- **Below {1e3 * DISPATCH:.0f} µs** the time is that of the host, which dispatches the call, and is marked so: such rows
  do not compare losses.
- **Products of float32**: on a GPU, JAX rounds their factors to TF32 by default, and PyTorch is set to do the same.
  Rows with the *highest precision* multiply in float32, JAX and PyTorch alike.
- **Not measured**: a candidate that is not installed, runs out of memory or fails is named below the tables of its
  device, with the reason. The others of the case are measured.
- **Eager calls** have no `jit`: a call computes the losses, or the gradient of their mean, on small arrays.
- **Errors** are against the plain form in float64: of the value, over the mean size of the losses; of a gradient, the
  largest error over its largest entry. The tables show the larger of the two. Inputs are random, so these show that
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
        text += report_compiled.write(compiled, output)
        report_compiled.write_guide(compiled, output / "docs" / "large_vocabularies.md")
    output.mkdir(parents=True, exist_ok=True)
    page = output / "BENCHMARKS.md"
    page.write_text("\n".join(part.rstrip() + "\n" for part in text))
    return page


def _in_order(result: Record) -> Record:
    """That of the table of cases, without those that are no longer there."""
    return result | {"records": sorted((r for r in result["records"] if r["loss"] in ORDER), key=_place)}


def _place(record: Record) -> tuple:
    rank = ORDER.index(record["loss"]), record["dtype"] == "bfloat16", -math.prod(record["shape"])
    return *rank, record.get("variant", "")


def _comparable(record: Record) -> bool:
    """A loss as the table of cases has it, beside its peers."""
    return not record.get("kind") and not record.get("variant") and "jaxloss" in record["candidates"]


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
    if candidate["value_error"] is None:
        return "error unknown"
    return f"{max(candidate['value_error'], candidate['gradient_error']):.0e}".replace("e-0", "e-")


def _glance(measured: list[Record]) -> str:
    """Ours over the fastest other of each case, a column a device."""
    measured = [result | {"records": [r for r in result["records"] if _comparable(r)]} for result in measured]
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
        rows.append([tables.name(record), shape_and_dtype(record), *(_fastest(found.get(key)) for found in lookups)])
    return (
        "## At a glance\n\nThe time of jaxloss over that of the fastest other candidate: **bold**: we are "
        "faster; `≈`: within noise. The error (against float64) is ours, then theirs. "
        f"`{tables.MISSING}` means that nobody has run the command there. {len(ORDER) - len(SMALL)} losses of "
        f"{len(ORDER)}: the others follow under More losses.\n\n" + tables.table(rows, headers)
    )


def _fastest(record: Record | None) -> str:
    if record is None:
        return tables.MISSING
    others = {name: c for name, c in record["candidates"].items() if name != "jaxloss"}
    if not others:  # no time was left
        return f"{tables.digits(record['candidates']['jaxloss']['ms'])} ms, alone"
    name = max(others, key=lambda name: others[name]["ours_over_it"][1])
    return f"{_ratio(record, name)} of {name} ({_error(record['candidates']['jaxloss'])}, {_error(others[name])})"


def _device(result: Record, output: pathlib.Path) -> Iterator[str]:
    device = result["device"]
    provenance, mark = tables.provenance(result)
    yield f"## {device['name']}\n\n{provenance}"
    slug = records.slug(device["name"])
    ceilings = [session["ceilings"] for session in result["sessions"]]
    for group in GROUPS:
        variants = [r for r in result["records"] if group.belongs(r) and r.get("variant") and r["candidates"]]
        if variants:
            yield f"### {group.title}, called in other ways, {device['name']}\n\n{_every(variants, group.floor)}"
        found = [r for r in result["records"] if group.belongs(r) and _comparable(r)]
        if not found:
            continue
        file = f"benchmarks/results/{slug}-{group.part}"
        peers = [peer for peer in PEERS if any(peer in r["candidates"] for r in found)]
        by = f"{device['name']}; {tables.source(result, found)}"
        charts.times(found, ["jaxloss", *peers], by, output / file, group.floor, group.whole)
        picture = tables.picture(file, f"{group.title}: time over {group.floor}, and temporaries")
        yield f"### {group.title}, {device['name']}\n\n{picture}"
        headers = ["loss", "shape", "time", f"over {group.floor}", "of the copy", "temporaries", "error"]
        headers += [f"over {peer} (its error)" for peer in peers]
        lines = [headers, *(_row(r, peers, mark, ceilings[r["session"]]["copy_gbps"]) for r in found)]
        if group is LINEAR:  # memory is not what takes its time
            lines = [[*line[:4], *line[5:]] for line in lines]
        yield tables.table(lines[1:], lines[0])
        if group is LINEAR:
            yield _all_temporaries(found, ["jaxloss", *peers])
        yield _details(found, group.floor)
    tokens = [r for r in result["records"] if r.get("kind") == "tokens" and r["candidates"]]
    yield from _tokens(tokens, device["name"])
    yield from _eager([r for r in result["records"] if r.get("kind") == "eager"], device["name"])
    yield from _skipped(result["records"], device["name"])


def _tokens(found: list[Record], device: str) -> Iterator[str]:
    if not found:
        return
    rows = []
    for record in found:
        most = {name: candidate["tokens"] for name, candidate in record["candidates"].items()}
        cells = [f"{'at least ' * (most[n] == record['most'])}{most[n]}" if n in most else "" for n in OURS_AND_OPTAX]
        memory = f"{record['memory'] / 2**30:.0f} GiB" if record["memory"] else ""
        rows.append([tables.name(record), shape_and_dtype(record), memory, *cells])
    headers = ["loss", "features × classes", "memory of JAX", *OURS_AND_OPTAX]
    yield f"### The most tokens that fit, {device}\n\n" + (
        "Value and gradients run once; tokens are halved until they do.\n\n" + tables.table(rows, headers)
    )


def _eager(found: list[Record], device: str) -> Iterator[str]:
    if not found:
        return
    rows = []
    for record in found:
        cells = []
        for program in PROGRAMS:
            times = {name: record["candidates"].get(name, {}).get(f"{program}_ms") for name in OURS_AND_OPTAX}
            cells += ["" if time is None else f"{tables.digits(time)} ms" for time in times.values()]
            ratio = record["candidates"].get("optax", {}).get(f"{program}_ours_over_it")
            cells.append("" if ratio is None else f"{ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]")
        rows.append([tables.name(record), shape_and_dtype(record), *cells])
    headers = [f"{program}, {column}" for program in PROGRAMS for column in (*OURS_AND_OPTAX, "ours over optax")]
    yield f"### Eager calls, {device}\n\n" + (
        "Time of a call without `jit`. Ratios below 1: jaxloss is faster.\n\n"
        + tables.table(rows, ["loss", "shape", *headers])
    )


def _skipped(found: list[Record], device: str) -> Iterator[str]:
    """Who has no numbers, and why."""
    cases: dict[tuple[str, str], list[str]] = {}
    for record in found:
        for name, why in record.get("skipped", {}).items():
            cases.setdefault((name, why), []).append(f"{tables.name(record)} {shape_and_dtype(record)}")
    if cases:
        lines = [
            f"- {name}: {why} ({', '.join(of) if len(of) <= FEW else f'{len(of)} cases'})"
            for (name, why), of in cases.items()
        ]
        yield f"### Not measured, {device}\n\n" + "\n".join(lines)


def _row(record: Record, peers: list[str], mark: Callable[[Record], str], copy_gbps: float) -> list[str]:
    ours = record["candidates"]["jaxloss"]
    share = record["bytes"] / 1e6 / ours["ms"] / copy_gbps
    cells = [
        f"{_ratio(record, peer)} ({_error(record['candidates'][peer])})" if peer in record["candidates"] else ""
        for peer in peers
    ]
    return [
        tables.name(record) + mark(record),
        shape_and_dtype(record),
        f"{tables.digits(ours['ms'])} ms{', dispatch' if ours['ms'] < DISPATCH else ''}",
        f"{ours['of_floor'][1]:.1f}",
        f"{share:.0%}",
        f"{tables.mib(ours['temp_bytes'])} MiB",
        _error(ours),
        *cells,
    ]


def _all_temporaries(found: list[Record], names: list[str]) -> str:
    rows = []
    for record in found:
        of = [record["candidates"].get(name) for name in names]
        cells = ["" if c is None else tables.mib(c["temp_bytes"]) for c in of]
        tokens, _, classes = record["shape"]
        rows.append([tables.name(record), shape_and_dtype(record), tables.mib(4 * tokens * classes), *cells])
    return "Temporaries of each, in MiB, beside the logits in float32:\n\n" + tables.table(
        rows, ["loss", "shape", "the logits", *names]
    )


def _notes() -> str:
    notes = [f"- `{case.loss}`: {case.cpu_note}" for case in CASES if case.cpu_note]
    return f"## Where the time goes on a CPU\n\n{CPU_NOTE}\n\n" + "\n".join(notes)


def _details(group: list[Record], floor: str) -> str:
    return (
        "<details><summary>Every candidate: time, spread, compilation, memory and errors</summary>\n\n"
        + _every(group, floor)
        + "\n\n</details>"
    )


def _every(group: list[Record], floor: str) -> str:
    def spread(ratios: list[float] | None) -> str:
        if ratios is None:
            return ""
        low, middle, high = ratios
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    rows = []
    for record in group:
        for name, c in record["candidates"].items():
            compile_seconds = "" if c["compile_s"] is None else f"{c['compile_s']:.2f} s"
            rows.append(
                [
                    tables.name(record),
                    shape_and_dtype(record),
                    name,
                    f"{tables.digits(c['ms'])} ms",
                    spread(c["of_floor"]),
                    spread(c.get("ours_over_it")),
                    compile_seconds,
                    tables.MISSING if c["temp_bytes"] is None else f"{tables.mib(c['temp_bytes'])} MiB",
                    *("" if c[e] is None else f"{c[e]:.0e}" for e in ("value_error", "gradient_error")),
                ]
            )
        twice = ["jaxloss, twice", "", "", spread(record.get("again")), "", "", "", ""]
        rows.append([tables.name(record), shape_and_dtype(record), *twice])
    headers = ["loss", "shape", "candidate", "time", f"over {floor}", "ours over it", "compilation", "temporaries"]
    headers += ["error of the value", "of the gradient"]
    return tables.table(rows, headers)
