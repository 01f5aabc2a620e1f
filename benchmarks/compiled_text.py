"""What a compiled program says in its text of what moves between devices, and between a device and its memory."""

import math
import re
from typing import NamedTuple

_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:body|calls|to_apply)=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_STEPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")
_OPERATION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_MOVES_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = (  # how compilers write which devices exchange: {{0,1},{2,3}}, [groups,size]<=..., mesh['a'=2,'b'=2] {'a'}
    re.compile(r"replica_groups=\{\{([\d,]*)\}"),
    re.compile(r"replica_groups=\[\d+,(\d+)\]<="),
    re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}"),
)


def collectives(text: str) -> list[str]:
    """Each operation between devices in a compiled text, with the arrays that it gives: "all-reduce f32[4096]"."""
    found = []
    for line in text.splitlines():
        if (match := _COLLECTIVE.search(line)) is not None:
            arrays = _ARRAY.findall(match[1])
            if match[3]:  # a start names its operands and its context, too
                arrays = [array for array in arrays if array != ("u32", "")]
                arrays = arrays[len(arrays) // 2 :]
            found.append(" ".join([match[2], *(f"{kind}[{size}]" for kind, size in arrays)]))
    return sorted(found)


def in_loops(text: str) -> str:
    """The lines of a compiled text that a loop repeats, in its body and in what that calls."""
    computations = _computations(text)
    repeated: dict[str, list[str]] = {}
    pending = set(_BODY.findall(text))
    while pending:
        name = pending.pop()
        repeated[name] = computations.get(name, [])
        pending |= set(_CALLED.findall("\n".join(repeated[name]))) - repeated.keys()
    return "\n".join(line for lines in repeated.values() for line in lines)


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation, of the first one called ENTRY too."""
    computations: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if (match := _COMPUTATION.match(line)) is not None:
            name = match[1]
            if line.startswith("ENTRY"):
                computations["ENTRY"] = computations.setdefault(name, [])
        computations.setdefault(name, []).append(line)
    return computations


class Transfer(NamedTuple):
    """An operation between devices, how often it runs, and the bytes that a device sends for it in all."""

    operation: str
    times: float
    sent: float


def transfers(text: str) -> list[Transfer]:
    """What a device sends in a compiled program, in rings, the steps of loops counted; NaN where those are unknown."""
    computations = _computations(text)
    devices = int((re.search(r"num_partitions=(\d+)", text) or ["", "1"])[1])
    found: dict[tuple[str, str], Transfer] = {}  # compilers for TPUs write one operation in several computations

    def walk(name: str, times: float) -> None:
        for line in computations.get(name, ()):
            for operation in collectives(line):
                channel = _CHANNEL.search(line)
                sent = _sent(operation, _group(line) or devices, scattered="all-reduce-scatter" in name)
                found[operation, channel[1] if channel else line] = Transfer(operation, times, times * sent)
            condition = _CONDITION.search(line)
            steps = _steps(line, condition[1], computations) if condition else 1
            branches = re.findall(r"[\w.\-]+", " ".join(_BRANCHES.findall(line)))
            for called in _CALLED.findall(line) + branches:
                walk(called, times * steps)

    walk("ENTRY", 1)
    return list(found.values())


def _steps(line: str, condition: str, computations: dict[str, list[str]]) -> float:
    """Of a loop: known to the compiler, or the number with which its condition compares."""
    if (known := _STEPS.search(line)) is not None:
        return int(known[1])
    text = "\n".join(computations.get(condition, ()))
    text += "\n".join(line for called in _CALLED.findall(text) for line in computations.get(called, ()))
    return max(map(int, _CONSTANT.findall(text)), default=math.nan)


def _group(line: str) -> int | None:
    """How many devices exchange with each other."""
    listed, sized, of_mesh = (pattern.search(line) for pattern in _GROUPS)
    if listed:
        return len(listed[1].split(","))
    if sized:
        return int(sized[1])
    if of_mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", of_mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", of_mesh[2]))
    return None


def _sent(operation: str, group: int, *, scattered: bool) -> float:
    """Bytes. An all-reduce is a reduce-scatter and an all-gather. Compilers for TPUs may fuse the second one away."""
    kind, result = operation.split()[0], sum(_bytes(*array) for array in arrays([operation]))
    if kind == "collective-permute":
        return result
    if kind == "reduce-scatter":
        return result * (group - 1)
    return result * (group - 1) / group * (2 if kind == "all-reduce" and not scattered else 1)


def moved(text: str) -> int:
    """Bytes that the operations of a compiled program read and write, those in its fusions apart."""
    sizes: dict[str, int] = {}
    total = 0
    for line in _computations(text).get("ENTRY", ()):
        if (match := _OPERATION.match(line)) is None:
            continue
        name, result, operation, operands = match.groups()
        sizes[name] = sum(_bytes(*array) for array in arrays([result]))
        if operation not in _MOVES_NOTHING:
            total += sizes[name] + sum(sizes.get(operand, 0) for operand in _NAME.findall(operands))
    return total


def arrays(lines: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The dtype and the shape of each array in what `collectives` found."""
    found = _ARRAY.findall(" ".join(lines))
    return [(kind, tuple(int(n) for n in shape.split(",") if n)) for kind, shape in found]


def largest(lines: list[str]) -> int:
    """Bytes of the largest array in what `collectives` found."""
    return max((_bytes(*array) for array in arrays(lines)), default=0)


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * int(re.sub(r"\D", "", kind) or 8) // 8
