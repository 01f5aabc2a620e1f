"""What a test starts twice, as two processes of two devices: sharded over both, the loss is that of one device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import same

import jaxloss

TOKENS, FEATURES, CLASSES = 24, 8, 32
SPLITS = (  # of tokens, and of features and classes
    ("data", (None, None)),
    (("data", "model"), (("data", "model"), None)),
    (("data", "model"), (None, ("data", "model"))),
    ("data", (None, "model")),
    ("data", ("data", "model")),
    (("data", "model"), (None, "model")),
    (("data", "model"), ("data", "model")),
    (None, (None, "model")),
)


def mean(hidden, weight, labels, kept, **kwargs):
    return jaxloss.linear_cross_entropy(
        hidden, weight, labels, where=kept, reduction="mean", z_loss=0.01, chunk_size=6, **kwargs
    )


def main(rank: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    assert jax.device_count() == 4
    rng = np.random.default_rng(0)  # the same in both
    arrays = (
        rng.normal(size=(TOKENS, FEATURES)).astype(np.float32),
        rng.normal(size=(FEATURES, CLASSES)).astype(np.float32),
        rng.integers(CLASSES, size=TOKENS).astype(np.int32),
        rng.random(TOKENS) < 0.7,
    )
    gradient = jax.value_and_grad(mean, (0, 1))
    expected = jax.tree.map(np.asarray, jax.jit(gradient)(*map(jnp.asarray, arrays)))
    for kind in (AxisType.Auto, AxisType.Explicit):
        for tokens, weight in SPLITS:
            mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
            specs = P(tokens, None), P(*weight), P(tokens), P(tokens)
            with jax.set_mesh(mesh):
                sharded = [
                    jax.make_array_from_callback(a.shape, NamedSharding(mesh, spec), a.__getitem__)
                    for a, spec in zip(arrays, specs, strict=True)
                ]
                whole = jax.jit(gradient, out_shardings=NamedSharding(mesh, P()))(*sharded)
            for ours, one in zip(jax.tree.leaves(whole), jax.tree.leaves(expected), strict=True):
                same(ours.addressable_data(0), one, span=20)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
