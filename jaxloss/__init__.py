"""Loss functions for JAX: exact, small, fast, and open to every transformation."""

from ._reduction import reduce as reduce
from ._sigmoid_cross_entropy import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from ._softmax_cross_entropy import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from ._softmax_cross_entropy import smooth_labels as smooth_labels
from ._softmax_cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from ._softmax_cross_entropy import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)

__version__ = "0.1.0"

__all__ = [
    "reduce",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
