"""The page of what compilers say of devices that are not here."""

import math
import pathlib
from collections.abc import Callable, Iterator

from . import tables
from .compile_only import LARGE, LONG
from .compiled_text import largest
from .layouts import CLASSES, LAYOUTS, TOPOLOGIES
from .records import shape_and_dtype
from .tables import OF_PRODUCTS, OF_SEQUENCES, TOO_LARGE, Record
from .targets import ABSENT, MEMORY

BEGIN, END = "<!-- layouts: from python -m benchmarks -->", "<!-- layouts: end -->"
MIB = 2**20
HEAD = f"""# Benchmarks: TPUs and GPUs, compiled for without a device

These are the compilers' statements of memory. No time is among them, and nothing has been compared with a device.
[BENCHMARKS.md](../../BENCHMARKS.md) has the times on devices that were there.

- *Temporaries* are bytes beside inputs and outputs.
- *Peak* is the compiler's figure for everything at once, inputs and outputs included.
- `{TOO_LARGE}` is what a compiler refuses for the memory of one device. Compilers for GPUs refuse nothing.
- *Operations* (floating point) and *bytes* are analytic: of the plain form and its gradient, and of two passes.
- *On four* is our loss on a mesh of 2×2, rows split over one axis and classes over the other, for each device: its
  temporaries, and the largest array that devices exchange.
"""

WITHOUT_LOGITS = """## Without the logits

MiB of temporaries and of the peak. What multiplies matrices on a GPU is chosen where it runs: Triton is what its
compiler takes without a device, cuBLAS what is left without Triton. Ours adds up the gradient of the weight in float32,
*scan* in the dtype of the weight, which is less to keep and more of an error. *On four*: the loop over chunks of tokens
exchanges numbers of tokens and the gradient of a chunk's hidden states; the gradient of the weight is exchanged once,
after it.
"""


def page(result: Record) -> Iterator[str]:
    with_logits = [r for r in result["records"] if "candidates" in r and r["loss"] not in OF_PRODUCTS]
    yield HEAD
    yield tables.provenance(result)
    if with_logits:
        yield SHARES + _by_loss(with_logits, _largest_shares)
    if counted := [r for r in with_logits if "least_bytes" in r]:
        yield MOVED + _by_loss(counted, _moved_of_largest)
    yield from _without_logits(result["records"])
    yield from _layouts([r for r in result["records"] if r.get("kind") == "layout"])
    yield from _every(with_logits)


def _by_loss(compiled: list[Record], cell: Callable[[list[Record], list[str]], str]) -> str:
    """A row a loss, a column a device: what the function makes of the records."""
    names, targets = _names(compiled), _targets(compiled)
    rows = []
    for loss in dict.fromkeys(record["loss"] for record in compiled):
        of_loss = [record for record in compiled if record["loss"] == loss]
        cells = [cell([r for r in of_loss if r["target"] == target], names) for target in targets]
        rows.append([f"`{loss}`", *cells])
    return tables.table(rows, ["loss", *(f"{ABSENT[target]}: {', '.join(names)}" for target in targets)])


SHARES = """## Temporaries over the predictions

The size of the temporaries over that of the predictions. Of several shapes and dtypes, the largest.
Predictions below 1 MiB count as 1 MiB. `-`: it has no such loss.

"""


MOVED = """## Bytes moved

What a program reads and writes, over one pass that reads the inputs and writes the gradient; of the largest shape. A
loss of elements needs no more than that: 1. A loss of rows reads them again once it has their sums, for 1.5 to 1.7, and
a softmax before that for its maximum, 2.0. Exact cosines and distances look for the largest entry first, and near
vectors are subtracted, for 3. What other losses read again, they would else have to keep. Of arrays below some 100 MB,
compilers for TPUs also count what they copy between the two memories of a TPU, so that 1.7 is 4 to 5.

"""


def _moved_of_largest(records: list[Record], names: list[str]) -> str:
    cells = []
    for name in names:
        if found := [r for r in records if name in r["candidates"]]:
            largest_one = max(found, key=lambda r: r["least_bytes"])
            bytes_ = largest_one["candidates"][name]["moved_bytes"]
            cells.append(TOO_LARGE if bytes_ is None else f"{bytes_ / largest_one['least_bytes']:.1f}")
        else:
            cells.append("-")
    return ", ".join(cells)


def _targets(compiled: list[Record]) -> list[str]:
    return [target for target in ABSENT if any(record["target"] == target for record in compiled)]


def _largest_shares(records: list[Record], names: list[str]) -> str:
    cells = []
    for name in names:
        found = [_share(record, record["candidates"][name]) for record in records if name in record["candidates"]]
        cells.append(TOO_LARGE if math.inf in found else f"{max(found):.2f}" if found else "-")
    return ", ".join(cells)


def _share(record: Record, found: Record) -> float:
    """Of the size of the predictions; what is below a MiB is nothing, for arrays of a few KiB have such."""
    rows, *others, classes = record["shape"]
    rows *= math.prod(others if record["loss"] == "rnnt_loss" else others[:1]) if record["loss"] in OF_SEQUENCES else 1
    size = rows * classes * (2 if record["dtype"] == "bfloat16" else 4)
    return math.inf if found["temp_bytes"] is None else found["temp_bytes"] / max(size, MIB)


def _every(compiled: list[Record]) -> Iterator[str]:
    for target in _targets(compiled):
        group = [record for record in compiled if record["target"] == target]
        names = _names(group)
        headers = ["loss", "shape", "operations", "bytes"]
        headers += [f"{n}: temporaries, peak" for n in names] + ["on four: temporaries", "exchange"]
        rows = [_row(record, names) for record in group]
        yield f"## {ABSENT[target]}\n\n" + tables.folded("Every shape, MiB", tables.table(rows, headers))


def _names(group: list[Record]) -> list[str]:
    return [n for n in ("jaxloss", "optax", "plain", "scan") if any(n in r["candidates"] for r in group)]


def _row(record: Record, names: list[str]) -> list[str]:
    split = record["split"]
    return [
        tables.name(record),
        shape_and_dtype(record),
        f"{record['flops']:.2e}",
        f"{record['bytes']:.2e}",
        *(_memory(record["candidates"].get(n)) for n in names),
        tables.mib(split["temp_bytes"]),
        _exchange(split["collectives"]),
    ]


def _memory(found: Record | None) -> str:
    return "" if found is None else f"{tables.mib(found['temp_bytes'])}, {tables.mib(found['peak_bytes'])}"


def _exchange(collectives: list[str]) -> str:
    only_all_reduce = all(line.startswith("all-reduce") for line in collectives)
    exchange = f"{len(collectives)} all-reduce" if only_all_reduce else ", ".join(collectives)
    return f"{exchange}, at most {tables.size(largest(collectives))}" if collectives else exchange


def _without_logits(records: list[Record]) -> Iterator[str]:
    """Temporaries and peak; what of them grows with tokens; and the largest batch that fits."""
    of_products = [r for r in records if r["loss"] in OF_PRODUCTS and r.get("kind") != "layout"]
    compiled = [r for r in of_products if "candidates" in r]
    if not compiled:
        return
    names = _names(compiled)
    yield WITHOUT_LOGITS
    headers = ["device", "shape", "the logits", *(f"{n}: temporaries, peak" for n in names)]
    headers += ["on four: temporaries", "exchange in the loop", "after it"]
    rows: dict[tuple[str, ...], list[str]] = {}  # devices of which the compilers say the same are one row
    for record in compiled:
        if tuple(record["shape"]) != LONG:
            for device, *cells in _rows(record, names):
                rows.setdefault(tuple(cells), []).append(device)
    yield tables.table([["; ".join(devices), *cells] for cells, devices in rows.items()], headers)
    yield from _growth(compiled, names)
    if batches := [r for r in of_products if "tokens" in r]:
        yield _batches(batches, names)


def _rows(record: Record, names: list[str]) -> Iterator[list[str]]:
    device, candidates, split = ABSENT[record["target"]], record["candidates"], record["split"]
    in_loops = split["in_loops"]
    after = list(split["collectives"])
    for line in in_loops:
        after.remove(line)
    tokens, _, classes = record["shape"]
    facts = [shape_and_dtype(record), tables.mib(4 * tokens * classes)]
    on_four = [tables.mib(split["temp_bytes"]), _exchange(in_loops), _exchange(after)]
    gpu = record["target"] in MEMORY
    yield [f"{device}, Triton" if gpu else device, *facts, *(_memory(candidates[n]) for n in names), *on_four]
    if gpu:
        yield [f"{device}, cuBLAS", *facts, *(_memory(candidates[n]["cublas"]) for n in names), "", "", ""]


def _growth(compiled: list[Record], names: list[str]) -> Iterator[str]:
    long, features, classes = LONG
    found = {(r["target"], *r["shape"]): r["candidates"] for r in compiled}
    short = long // 8
    targets = [t for t in ABSENT if {(t, long, features, classes), (t, short, features, classes)} <= set(found)]
    if not targets:
        return
    yield f"Temporaries for {short} tokens → for {long} (features {features}, classes {classes}, bfloat16), MiB:"
    rows = []
    for target in targets:
        few, many = (found[target, tokens, features, classes] for tokens in (short, long))
        cells = [" → ".join(tables.mib(c[n]["temp_bytes"]) for c in (few, many)) for n in names]
        rows.append([ABSENT[target], *cells])
    yield tables.table(rows, ["device", *names])


def _batches(records: list[Record], names: list[str]) -> str:
    features, classes = LARGE
    rows = [[ABSENT[r["target"]], *(f"{r['tokens'][n]:,}".replace(",", " ") for n in names)] for r in records]
    gpus = " and ".join(f"{bytes_ / 1e9:.0f} GB for {ABSENT[t]}" for t, bytes_ in MEMORY.items())
    return (
        "The largest batch that fits beside nothing but its own inputs and gradients, in tokens, of powers of two\n"
        f"(features {features}, classes {classes}, bfloat16). A compiler for a TPU says itself what does not.\n"
        f"For GPUs its peak is compared with the memory, {gpus}:\n\n" + tables.table(rows, ["device", *names])
    )


def _layouts(records: list[Record]) -> Iterator[str]:
    if not records:
        return
    tokens, features, _ = records[0]["shape"]
    yield (
        "## Sixteen devices\n\n"
        f"`linear_cross_entropy`, its mean and both gradients, of {tokens} tokens with {features} features, bfloat16,\n"
        "on a mesh of 16 or of 4×4. For each device, in MiB: what it *sends* in a step (in rings, the steps of loops\n"
        "counted), and its temporaries. *Dense* is the product and a loss of its logits, on an automatic mesh. A\n"
        "compiler for TPUs makes a reduce-scatter over all 16 devices an all-reduce, which sends twice as much."
    )
    for target in TOPOLOGIES:
        if group := [r for r in records if r["target"] == target]:
            yield f"{ABSENT[target]}:"
            yield layouts_table(group)


def layouts_table(records: list[Record], classes: tuple[int, ...] = CLASSES) -> str:
    """What each layout costs on each kind of mesh, for these numbers of classes."""
    programs = {"automatic mesh": "jaxloss Auto", "explicit mesh": "jaxloss Explicit", "dense": "dense Auto"}
    several = len(classes) > 1
    headers = ["classes"] * several + ["split", "hidden [batch, length, features]", "weight [features, classes]"]
    headers += [f"{name}: sent, temporaries" for name in programs]
    names = [layout.name for layout in LAYOUTS]
    chosen = [r for r in records if r["shape"][2] in classes and r["variant"] in names]
    rows = []
    for record in sorted(chosen, key=lambda r: (r["shape"][2], names.index(r["variant"]))):
        layout = record["layout"]
        facts = [str(record["shape"][2])] * several + [record["variant"], layout["hidden"], layout["weight"]]
        rows.append(facts + [_sent(record["programs"][program]) for program in programs.values()])
    return tables.table(rows, headers)


def write_guide(result: Record, guide: pathlib.Path) -> None:
    """The table of layouts in the guide to large vocabularies, if there are both."""
    records = [r for r in result["records"] if r.get("kind") == "layout" and r["target"] == "v5e"]
    if records and guide.exists():
        before, rest = guide.read_text().split(BEGIN)
        table = layouts_table(records, CLASSES[:1])
        guide.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")


def _sent(program: Record | None) -> str:
    if program is None:
        return TOO_LARGE
    sent = "?" if program["sent_bytes"] is None else tables.mib(program["sent_bytes"])
    return f"{sent}, {tables.mib(program['temp_bytes'])}"
