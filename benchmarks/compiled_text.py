"""What a compiled program says in its text of what moves between devices."""

import math
import re

_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:body|calls|to_apply)=%?([\w.\-]+)")


def collectives(text: str) -> list[str]:
    """Each operation between devices in a compiled text, with the arrays that it gives: "all-reduce f32[4096]"."""
    found = []
    for line in text.splitlines():
        if (match := _COLLECTIVE.search(line)) is not None:
            arrays = _ARRAY.findall(match[1])
            arrays = arrays[len(arrays) // 2 :] if match[3] else arrays  # a start names its operands, too
            found.append(" ".join([match[2], *(f"{kind}[{size}]" for kind, size in arrays)]))
    return sorted(found)


def in_loops(text: str) -> str:
    """The lines of a compiled text that a loop repeats, in its body and in what that calls."""
    computations: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if (match := _COMPUTATION.match(line)) is not None:
            name = match[1]
        computations.setdefault(name, []).append(line)
    repeated: dict[str, list[str]] = {}
    pending = set(_BODY.findall(text))
    while pending:
        name = pending.pop()
        repeated[name] = computations.get(name, [])
        pending |= set(_CALLED.findall("\n".join(repeated[name]))) - repeated.keys()
    return "\n".join(line for lines in repeated.values() for line in lines)


def arrays(lines: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The dtype and the shape of each array in what `collectives` found."""
    found = _ARRAY.findall(" ".join(lines))
    return [(kind, tuple(int(n) for n in shape.split(",") if n)) for kind, shape in found]


def largest(lines: list[str]) -> int:
    """Bytes of the largest array in what `collectives` found."""
    bits = [math.prod(shape) * int(re.sub(r"\D", "", kind) or 8) for kind, shape in arrays(lines)]
    return max(bits, default=0) // 8
