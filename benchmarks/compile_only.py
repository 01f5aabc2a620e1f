"""What compilers for TPUs and GPUs say of a case, without the device: memory, and what moves between devices.

These are the compilers' own statements. No time is among them: none has been measured.
"""

import functools
import importlib.util
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import jaxloss

from . import records
from .candidates import mean_of, widened
from .cases import Case, Shape
from .measure import floor_bytes, operations
from .run import chosen
from .targets import ABSENT, devices_of, needs

FILE = "compile-only.json"
_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+)\[([0-9,]*)\]")


def compiled(function: Callable[..., Array], case: Case, shape: Shape, dtype: str, mesh: Mesh) -> Any:
    """Value and gradient of the mean, rows split over the first axis of the mesh and classes over the second.

    None if it does not fit into the memory of the device.
    """
    x, t = (
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, P(*mesh.axis_names[: a.ndim])))
        for a in inputs(case, shape, dtype)
    )
    try:
        return jax.jit(jax.value_and_grad(mean_of(function))).lower(x, t).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def inputs(case: Case, shape: Shape, dtype: str) -> Any:
    return jax.eval_shape(lambda: case.draw(jax.random.key(0), shape, dtype))


def mesh_of(target: str, split: bool) -> Mesh:
    devices = np.array(devices_of(target))
    return Mesh(devices.reshape(2, 2) if split else devices[:1].reshape(1, 1), ("data", "model"))


def forms(case: Case) -> dict[str, Callable[..., Array]]:
    found = {
        "jaxloss": functools.partial(getattr(jaxloss, case.loss), **case.options, reduction="mean"),
        "plain": functools.partial(widened, case.plain),
    }
    for peer, call in case.peers:
        if peer == "optax" and importlib.util.find_spec(peer):
            found[peer] = call(importlib.import_module(peer))
    return found


def collectives(text: str) -> list[str]:
    """Each operation between devices in a compiled text, with the arrays that it gives: "all-reduce f32[4096]"."""
    found = []
    for line in text.splitlines():
        if (match := _COLLECTIVE.search(line)) is not None:
            arrays = _ARRAY.findall(match[1])
            arrays = arrays[len(arrays) // 2 :] if match[3] else arrays  # a start names its operands, too
            found.append(" ".join([match[2], *(f"{kind}[{size}]" for kind, size in arrays)]))
    return sorted(found)


def largest(lines: list[str]) -> int:
    """Bytes of the largest array in what `collectives` found."""
    sizes = [0]
    for kind, shape in _ARRAY.findall(" ".join(lines)):
        bits = int(re.sub(r"\D", "", kind) or 8)
        sizes.append(math.prod(int(n) for n in shape.split(",") if n) * bits // 8)
    return max(sizes)


def _memory(program: Any) -> dict[str, Any]:
    if program is None:
        return {"temp_bytes": None, "peak_bytes": None}
    memory = program.memory_analysis()
    return {"temp_bytes": memory.temp_size_in_bytes, "peak_bytes": memory.peak_memory_in_bytes}


def record(case: Case, shape: Shape, dtype: str, target: str) -> dict[str, Any]:
    x, t = inputs(case, shape, dtype)
    one, four = mesh_of(target, split=False), mesh_of(target, split=True)
    candidates = {name: _memory(compiled(form, case, shape, dtype, one)) for name, form in forms(case).items()}
    split = compiled(forms(case)["jaxloss"], case, shape, dtype, four)
    return {
        "target": target,
        "loss": case.loss,
        "shape": list(shape),
        "dtype": dtype,
        "bytes": floor_bytes(x, t),
        "flops": operations(case, x, t),
        "logits_bytes": x.size * x.dtype.itemsize,
        "candidates": candidates,
        "split": _memory(split) | {"collectives": [] if split is None else collectives(split.as_text())},
    }


def compile_all(only: str, quick: bool, output: pathlib.Path, session: dict[str, Any]) -> None:
    file = output / "benchmarks" / "results" / FILE
    old, new = records.load(file), []
    found = {target: importlib.util.find_spec(needs(target).partition(".")[0]) is not None for target in ABSENT}
    for target in (target for target, here in found.items() if not here):
        print(f"skipped {ABSENT[target]}: {needs(target)} is not installed")
    cases = chosen(only, accelerator=True, quick=quick)
    todo = [(*case, target) for case in cases for target, here in found.items() if here]
    for case, shape, dtype, target in (bar := tqdm(todo)):
        bar.set_description(f"{case.loss} {list(shape)} {dtype} {target}")
        new.append(record(case, shape, dtype, target))
        records.save(file, records.merge(old, session, new))
