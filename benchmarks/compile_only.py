"""What compilers for TPUs and GPUs say of a case, without the device: memory, and what moves between devices.

These are the compilers' own statements. No time is among them: none has been measured.
"""

import functools
import importlib.util
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from . import layouts, records
from .candidates import MODULES, library_of, ours, plain, with_gradients
from .cases import Case, Shape
from .compiled_text import collectives, in_loops, moved
from .measure import floor_bytes, least_bytes, operations
from .run import chosen
from .targets import ABSENT, MEMORY, devices_of, needs

FILE = "compile-only.json"
PEERS = ("optax", "scan")  # what is nothing but XLA
LONG = (65_536, 2048, 32_768)  # beside a case with an eighth of the tokens: what grows with them
LARGE = (4096, 128_256)  # features and classes, for which the largest batch is looked for


def compiled(function: Callable[..., Array], case: Case, shape: Shape, dtype: str, mesh: Mesh, **options: Any) -> Any:
    """Value and gradients of the mean, rows split over the first axis of the mesh and classes over the second.

    Classes of sequences are not.

    None if it does not fit into the memory of the device.
    """
    x, *matrices, t = inputs(case, shape, dtype)
    arrays = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, P(*axes[: a.ndim])))
        for a, axes in (
            (x, ("data", None if matrices or case.call else "model")),
            *((m, (None, "model")) for m in matrices),
            (t, ("data", None if case.call else "model")),
        )
    ]
    try:
        return jax.jit(with_gradients(function, len(arrays))).lower(*arrays).compile(compiler_options=options)
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
    found = {"jaxloss": ours(case), "plain": plain(case)}
    for peer in case.peers:
        if peer.name in PEERS and importlib.util.find_spec(library_of(peer.name)):
            found[peer.name] = peer.call(importlib.import_module(MODULES[peer.name]))
    return found


def _memory(program: Any) -> dict[str, Any]:
    if program is None:
        return {"temp_bytes": None, "peak_bytes": None, "moved_bytes": None}
    memory, cost = program.memory_analysis(), program.cost_analysis()
    return {
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "moved_bytes": cost["bytes accessed"] if cost else moved(program.as_text()),  # there is no cost for GPUs
    }


def record(case: Case, shape: Shape, dtype: str, target: str) -> dict[str, Any]:
    arrays = inputs(case, shape, dtype)
    one, four = mesh_of(target, split=False), mesh_of(target, split=True)
    candidates = {name: _memory(compiled(form, case, shape, dtype, one)) for name, form in forms(case).items()}
    if case.products and target in MEMORY:
        for name, form in forms(case).items():
            program = compiled(form, case, shape, dtype, one, xla_gpu_enable_triton_gemm=False)
            candidates[name]["cublas"] = _memory(program)
    split = compiled(ours(case), case, shape, dtype, four)
    text = "" if split is None else split.as_text()
    return {
        "target": target,
        "loss": case.loss,
        "shape": list(shape),
        "dtype": dtype,
        "bytes": floor_bytes(arrays),
        "least_bytes": least_bytes(arrays),
        "flops": operations(case, arrays),
        "candidates": candidates,
        "split": _memory(split) | {"collectives": collectives(text), "in_loops": collectives(in_loops(text))},
    }


def batches(case: Case, features: int, classes: int, dtype: str, target: str) -> dict[str, Any]:
    """The most tokens, of 1024 times powers of two, whose program fits into the memory of one device."""
    one = mesh_of(target, split=False)
    found = {}
    for name, form in forms(case).items():
        tokens = 1024
        while fits(compiled(form, case, (tokens, features, classes), dtype, one), target):
            tokens *= 2
        found[name] = tokens // 2 if tokens > 1024 else 0
    return {"target": target, "loss": case.loss, "shape": [features, classes], "dtype": dtype, "tokens": found}


def fits(program: Any, target: str) -> bool:
    """Compilers for TPUs refuse what does not."""
    return program is not None and _memory(program)["peak_bytes"] <= MEMORY.get(target, math.inf)


def compile_all(cases: str, only: list[str], quick: bool, output: pathlib.Path, session: dict[str, Any]) -> None:
    file = output / "benchmarks" / "results" / FILE
    old, new = records.load(file), []
    found = {target: importlib.util.find_spec(needs(target).partition(".")[0]) is not None for target in ABSENT}
    for target in (target for target, here in found.items() if not here):
        print(f"skipped {ABSENT[target]}: {needs(target)} is not installed")
    runs = [] if cases == "layouts" else chosen(only, accelerator=True, quick=quick)
    todo = [(case.loss, functools.partial(record, case, *run)) for case, *run in runs]
    for case in {case.loss: case for case, *_ in runs if case.products and not quick}.values():
        todo.append((case.loss, functools.partial(record, case, LONG, "bfloat16")))
        todo.append((case.loss, functools.partial(batches, case, *LARGE, "bfloat16")))
    jobs = [(loss, target, facts) for loss, facts in todo for target, here in found.items() if here]
    if cases == "layouts" or (only == [""] and not quick):
        for layout, target, classes in itertools.product(layouts.LAYOUTS, layouts.TOPOLOGIES, layouts.CLASSES):
            if found[target]:
                jobs.append((layout.name, target, functools.partial(layouts.record, layout, classes=classes)))
    for name, target, facts in (bar := tqdm(jobs)):
        bar.set_description(f"{name} {target}")
        new.append(facts(target=target))
        records.save(file, records.merge(old, session, new))
