"""Margin losses of elements: their edges."""

import pytest
from edges import at_edges, check_edge, inf

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("hinge_loss", 1.0, 1.0, {}, 0, 0),
        ("hinge_loss", -inf, 1.0, {}, inf, -1),
        ("squared_hinge_loss", 1.0, 1.0, {}, 0, 0),
        ("perceptron_loss", 0.0, 1.0, {}, 0, 0),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)
