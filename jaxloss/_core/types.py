"""The aliases of the public signatures."""

from typing import Literal

Axis = int | tuple[int, ...] | None
"""The class axis or axes (flattened together); None for all."""

AxisName = str | tuple[str, ...]
"""The name of a mapped axis, or of several, as `jax.lax.psum` takes it."""

Reduction = Literal["none", "sum", "mean"]
