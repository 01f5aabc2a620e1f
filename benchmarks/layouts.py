"""How hidden states and an output matrix lie on a mesh, and what compilers say that a training step sends and needs.

Each layout is compiled for devices that are not there, on an automatic mesh and on an explicit one: the value of the
mean and both gradients, which lie as their arguments do.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

from . import linear
from .compiled_text import transfers
from .targets import devices_of

BATCH, LENGTH, FEATURES = 16, 4096, 4096
CLASSES = (128_256, 151_936, 256_000)
TOPOLOGIES = {"v5e": "4x4", "h200": "1x1x16"}


class Layout(NamedTuple):
    name: str
    mesh: dict[str, int]
    hidden: P  # of [batch, length, features]
    weight: P  # of [features, classes]


LAYOUTS = (
    Layout("data parallel", {"data": 16}, P("data"), P()),
    Layout("fully sharded (FSDP)", {"data": 16}, P("data"), P("data")),
    Layout("fully sharded by classes", {"data": 16}, P("data"), P(None, "data")),
    Layout("data × tensor parallel", {"data": 4, "model": 4}, P("data"), P(None, "model")),
    Layout("fully sharded × tensor parallel", {"data": 4, "model": 4}, P("data"), P("data", "model")),
    Layout("tensor parallel, sequence split", {"data": 4, "model": 4}, P("data", "model"), P(None, "model")),
    Layout("the same, fully sharded", {"data": 4, "model": 4}, P("data", "model"), P("data", "model")),
)
RUNS = (("jaxloss", "Auto"), ("jaxloss", "Explicit"), ("dense", "Auto"))  # form and kind of mesh
FORMS: dict[str, Callable[..., Array]] = {
    "jaxloss": lambda hidden, weight, labels: jaxloss.linear_cross_entropy(hidden, weight, labels, reduction="mean"),
    "dense": lambda hidden, weight, labels: linear.plain(hidden, weight, labels).mean(),
}


def compiled(layout: Layout, form: str, kind: str, target: str, classes: int) -> Any:
    """The program on a mesh of that kind, "Auto" or "Explicit". None if it does not fit into the memory of a device."""
    devices = np.array(devices_of(target, TOPOLOGIES[target])).reshape(tuple(layout.mesh.values()))
    mesh = Mesh(devices, tuple(layout.mesh), axis_types=(AxisType[kind],) * devices.ndim)

    def array(shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    hidden = array((BATCH, LENGTH, FEATURES), jnp.bfloat16, layout.hidden)
    weight = array((FEATURES, classes), jnp.bfloat16, layout.weight)
    labels = array((BATCH, LENGTH), jnp.int32, P(*layout.hidden[:2]))
    out = None if kind == "Explicit" else (None, (hidden.sharding, weight.sharding))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(FORMS[form], (0, 1)), out_shardings=out)
        try:
            return step.lower(hidden, weight, labels).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None


def record(layout: Layout, target: str, classes: int) -> dict[str, Any]:
    found = {f"{form} {kind}": compiled(layout, form, kind, target, classes) for form, kind in RUNS}
    return {
        "target": target,
        "kind": "layout",
        "loss": "linear_cross_entropy",
        "variant": layout.name,
        "shape": [BATCH * LENGTH, FEATURES, classes],
        "dtype": "bfloat16",
        "layout": {"hidden": _axes(layout.hidden, 3), "weight": _axes(layout.weight, 2)},
        "programs": {name: _facts(program) for name, program in found.items()},
    }


def _axes(spec: P, rank: int) -> str:
    return ", ".join(axis or "·" for axis in (*spec, *[None] * (rank - len(spec))))


def _facts(program: Any) -> dict[str, Any] | None:
    if program is None:
        return None
    sent = transfers(program.as_text())
    total = sum(transfer.sent for transfer in sent)
    return {
        "temp_bytes": program.memory_analysis().temp_size_in_bytes,
        "sent_bytes": None if math.isnan(total) else round(total),
        "transfers": [list(transfer) for transfer in sent if not transfer.sent < 1e6],
    }
