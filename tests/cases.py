"""The table: a row for each public loss and for each way of calling it that takes another path. Laws run over all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

CLASSES = 48  # has divisors, so that a CPU takes the path by blocks
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.05, "soft_cap": 3.0, "logit_scale": 1.5}
SIGMOID_OPTIONS = {"label_smoothing": 0.1, "pos_weight": 2.5, "soft_cap": 3.0, "logit_scale": 1.5}


@dataclass(frozen=True, eq=False)
class Case:
    """A loss of (predictions, targets): how to call it, what to call it with, and what it has."""

    name: str
    loss: Callable[..., jax.Array]
    targets: str  # "index", "probabilities" or "elements"
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, predictions, targets, **kwargs) -> jax.Array:
        return self.loss(predictions, targets, **{**self.options, **kwargs})

    @property
    def rows(self) -> bool:
        """Whether the last axis holds the classes."""
        return self.targets != "elements"

    @property
    def id(self) -> str:
        return self.name + "".join(f"-{option}" for option in self.options)

    def draw(self, rng: np.random.Generator, *batch: int, classes: int = CLASSES, scale: float = 2.0, dtype=np.float32):
        """Predictions and targets for a batch of that shape."""
        predictions = jnp.asarray(rng.normal(size=(*batch, classes)) * scale, dtype)
        if self.targets == "index":
            return predictions, jnp.asarray(rng.integers(classes, size=batch), np.int32)
        targets = rng.random((*batch, classes))
        if self.rows:  # they need not sum to 1
            targets *= 1.5 / targets.sum(-1, keepdims=True)
        return predictions, jnp.asarray(targets, dtype)


def _variants(name: str, loss: Callable[..., jax.Array], targets: str, options: dict[str, Any]) -> list[Case]:
    return [Case(name, loss, targets), Case(name, loss, targets, options)]


CASES = [
    *_variants("softmax_cross_entropy", jaxloss.softmax_cross_entropy, "probabilities", OPTIONS),
    *_variants(
        "softmax_cross_entropy_with_integer_labels",
        jaxloss.softmax_cross_entropy_with_integer_labels,
        "index",
        OPTIONS,
    ),
    Case("safe_softmax_cross_entropy", jaxloss.safe_softmax_cross_entropy, "probabilities"),
    *_variants("sigmoid_binary_cross_entropy", jaxloss.sigmoid_binary_cross_entropy, "elements", SIGMOID_OPTIONS),
]

NOT_LOSSES = {"reduce", "smooth_labels"}

SMOKE = {"softmax_cross_entropy_with_integer_labels", "sigmoid_binary_cross_entropy"}


def over(cases):
    """A test over these cases; a few of them, with all their options, are its part in the smoke subset."""

    def marks(case):
        return pytest.mark.smoke if case.name in SMOKE and case.options else ()

    return pytest.mark.parametrize("case", [pytest.param(c, id=c.id, marks=marks(c)) for c in cases])


every_case = over(CASES)
every_row_case = over([case for case in CASES if case.rows])
