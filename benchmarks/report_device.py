"""The page of all that was measured on a device."""

from collections.abc import Callable, Iterator

from . import tables
from .cases import CASES, CPU_NOTE
from .charts import PEERS
from .comparison import GROUPS, LINEAR, ORDER, is_comparable, is_dispatch, ratio
from .eager import PROGRAMS
from .records import shape_and_dtype
from .tables import Record

OURS_AND_OPTAX = ("jaxloss", "optax")
FEW = 3  # cases that are named one by one


def page(result: Record) -> Iterator[str]:
    device, found = result["device"], result["records"]
    yield (
        f"# Benchmarks: {device['name']}\n\n"
        "All that was measured on this device. [BENCHMARKS.md](../../BENCHMARKS.md) is the summary, "
        "[method.md](method.md) says\nwhat the columns are. Ratios below 1: jaxloss is faster."
    )
    yield tables.provenance(result)
    for group in GROUPS:
        of_group = [record for record in found if group.belongs(record)]
        if variants := [r for r in of_group if r.get("variant") and r["candidates"]]:
            yield f"## {group.title}, called in other ways\n\n{_every(variants, group.floor)}"
        if compared := [r for r in of_group if is_comparable(r)]:
            yield f"## {group.title}\n\n{_compared(compared, group.floor, result)}"
            if group is LINEAR:
                yield _temporaries(compared)
            summary = "Every candidate: time, spread, compilation, memory and errors"
            yield tables.folded(summary, _every(compared, group.floor))
    yield from _tokens([r for r in found if r.get("kind") == "tokens" and r["candidates"]])
    yield from _eager([r for r in found if r.get("kind") == "eager"])
    yield from _skipped(found)
    if device["platform"] == "cpu":
        yield _notes()


def _peers(found: list[Record]) -> list[str]:
    return [peer for peer in PEERS if any(peer in record["candidates"] for record in found)]


def _compared(found: list[Record], floor: str, result: Record) -> str:
    """Ours, and its ratio to each peer."""
    peers, mark = _peers(found), tables.mark_of_runs(result)
    headers = ["loss", "shape", "time", f"over {floor}", "of the copy", "temporaries", "error"]
    headers += [f"over {peer} (its error)" for peer in peers]
    copies = [session["ceilings"]["copy_gbps"] for session in result["sessions"]]
    lines = [headers, *(_row(record, peers, mark, copies[record["session"]]) for record in found)]
    if floor == LINEAR.floor:  # memory is not what takes its time
        lines = [[*line[:4], *line[5:]] for line in lines]
    return tables.table(lines[1:], lines[0])


def _row(record: Record, peers: list[str], mark: Callable[[Record], str], copy_gbps: float) -> list[str]:
    ours = record["candidates"]["jaxloss"]
    share = record["bytes"] / 1e6 / ours["ms"] / copy_gbps
    cells = [
        f"{ratio(record, peer)} ({_error(record['candidates'][peer])})" if peer in record["candidates"] else ""
        for peer in peers
    ]
    return [
        tables.name(record) + mark(record),
        shape_and_dtype(record),
        f"{tables.digits(ours['ms'])} ms{', dispatch' if is_dispatch(record) else ''}",
        f"{ours['of_floor'][1]:.1f}",
        f"{share:.0%}",
        f"{tables.mib(ours['temp_bytes'])} MiB",
        _error(ours),
        *cells,
    ]


def _error(candidate: Record) -> str:
    if candidate["value_error"] is None:
        return "error unknown"
    return f"{max(candidate['value_error'], candidate['gradient_error']):.0e}".replace("e-0", "e-")


def _temporaries(found: list[Record]) -> str:
    names = ["jaxloss", *_peers(found)]
    rows = []
    for record in found:
        of = [record["candidates"].get(name) for name in names]
        cells = ["" if c is None else tables.mib(c["temp_bytes"]) for c in of]
        tokens, _, classes = record["shape"]
        rows.append([tables.name(record), shape_and_dtype(record), tables.mib(4 * tokens * classes), *cells])
    return "Temporaries of each, in MiB, beside the logits in float32:\n\n" + tables.table(
        rows, ["loss", "shape", "the logits", *names]
    )


def _every(found: list[Record], floor: str) -> str:
    rows = []
    for record in found:
        for name, c in record["candidates"].items():
            rows.append(
                [
                    tables.name(record),
                    shape_and_dtype(record),
                    name,
                    f"{tables.digits(c['ms'])} ms",
                    _spread(c["of_floor"]),
                    _spread(c.get("ours_over_it")),
                    "" if c["compile_s"] is None else f"{c['compile_s']:.2f} s",
                    tables.MISSING if c["temp_bytes"] is None else f"{tables.mib(c['temp_bytes'])} MiB",
                    *("" if c[e] is None else f"{c[e]:.0e}" for e in ("value_error", "gradient_error")),
                ]
            )
        twice = ["jaxloss, twice", "", "", _spread(record.get("again")), "", "", "", ""]
        rows.append([tables.name(record), shape_and_dtype(record), *twice])
    headers = ["loss", "shape", "candidate", "time", f"over {floor}", "ours over it", "compilation", "temporaries"]
    headers += ["error of the value", "of the gradient"]
    return tables.table(rows, headers)


def _spread(ratios: list[float] | None) -> str:
    if ratios is None:
        return ""
    low, middle, high = ratios
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _tokens(found: list[Record]) -> Iterator[str]:
    if not found:
        return
    rows = []
    for record in found:
        most = {name: candidate["tokens"] for name, candidate in record["candidates"].items()}
        cells = [f"{'at least ' * (most[n] == record['most'])}{most[n]}" if n in most else "" for n in OURS_AND_OPTAX]
        memory = f"{record['memory'] / 2**30:.0f} GiB" if record["memory"] else ""
        rows.append([tables.name(record), shape_and_dtype(record), memory, *cells])
    headers = ["loss", "features × classes", "memory of JAX", *OURS_AND_OPTAX]
    yield "## The most tokens that fit\n\n" + (
        "Value and gradients run once; tokens are halved until they do.\n\n" + tables.table(rows, headers)
    )


def _eager(found: list[Record]) -> Iterator[str]:
    if not found:
        return
    rows = []
    for record in found:
        cells = []
        for program in PROGRAMS:
            times = {name: record["candidates"].get(name, {}).get(f"{program}_ms") for name in OURS_AND_OPTAX}
            cells += ["" if time is None else f"{tables.digits(time)} ms" for time in times.values()]
            cells.append(_spread(record["candidates"].get("optax", {}).get(f"{program}_ours_over_it")))
        rows.append([tables.name(record), shape_and_dtype(record), *cells])
    headers = [f"{program}, {column}" for program in PROGRAMS for column in (*OURS_AND_OPTAX, "ours over optax")]
    yield "## Eager calls\n\nTime of a call without `jit`.\n\n" + tables.table(rows, ["loss", "shape", *headers])


def _skipped(found: list[Record]) -> Iterator[str]:
    """Who has no numbers, and why."""
    cases: dict[tuple[str, str], list[str]] = {}
    for record in found:
        for name, why in record.get("skipped", {}).items():
            cases.setdefault((name, why), []).append(f"{tables.name(record)} {shape_and_dtype(record)}")
    if absent := [f"`{loss}`" for loss in ORDER if loss not in {record["loss"] for record in found}]:
        cases["all", "not run"] = absent
    rows = [[name, why, ", ".join(of) if len(of) <= FEW else f"{len(of)} cases"] for (name, why), of in cases.items()]
    if rows:
        yield "## Not measured\n\n" + tables.table(rows, ["candidate", "why", "of"])


def _notes() -> str:
    notes = [[f"`{case.loss}`", case.cpu_note] for case in CASES if case.cpu_note]
    return f"## Where the time goes on a CPU\n\n{CPU_NOTE}\n\n" + tables.table(notes, ["loss", "why"])
