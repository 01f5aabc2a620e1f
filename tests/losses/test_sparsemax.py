"""The threshold of the sparsemax ends, and is right, where scores tie it within a rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from oracles import exact_row
from tolerances import close

import jaxloss

# Rows of which each alone is fine, and which step back and forth in turns: the second when the first does not.
OPPOSITE = [
    ["0x0p+0", "-0x1.99999cp-2", "-0x1.99999ap-1", "-0x1.666666p-1"],
    ["-0x1.99999cp-3", "-0x1.333332p-1", "0x0p+0", "-0x1.333332p-1"],
]


def test_rows_in_opposite_phase():
    scores = jnp.array([[float.fromhex(v) for v in row] for row in OPPOSITE])
    np.testing.assert_allclose(jaxloss.multiclass_sparsemax_loss(scores, jnp.array([0, 0])), [0.09, 0.36], rtol=1e-6)


@pytest.mark.parametrize("unit", [0.05, 0.1])
@pytest.mark.parametrize(("rows", "classes"), [(2, 3), (1000, 4), (300, 17), (64, 64)])
def test_scores_that_tie(unit, rows, classes, rng):
    """Multiples of a unit, and their neighbours."""
    scores = (unit * rng.integers(-12, 13, size=(rows, classes))).astype(np.float32)
    scores = np.nextafter(scores, scores + rng.integers(-1, 2, size=scores.shape).astype(np.float32))
    labels = rng.integers(classes, size=rows)
    losses, gradient = jax.vjp(lambda s: jaxloss.multiclass_sparsemax_loss(s, labels), jnp.asarray(scores))
    gradient = gradient(jnp.ones(rows))[0]
    close(gradient.sum(-1), np.zeros(rows), 2.0)
    formula = next(case.formula for case in CASES if case.name == "multiclass_sparsemax_loss")
    for i in range(0, rows, max(1, rows // 10)):
        truth, _ = exact_row(formula, scores[i], np.eye(classes)[labels[i]])
        close(losses[i], float(truth), 1 + np.abs(scores[i]).max(), of=f"row {i}")
