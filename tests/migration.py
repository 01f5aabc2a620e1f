"""What others call it, and what it is here: data that the tests run and that prints docs/migration.md.

`python tests/migration.py` writes the page.
"""

import pathlib
from typing import NamedTuple

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "migration.md"


class Row(NamedTuple):
    theirs: str
    ours: str
    difference: str
    predictions: str = "real"
    targets: str = "real"


MEAN = "Keras averages over the last axis"
ZERO_ONE = "Keras takes 0 for -1 if all labels of the batch are 0 or 1"
CLIPPED = "Keras clips probabilities to [1e-7, 1 - 1e-7], here a probability of 0 costs infinity"
RENORMALISED = f"Keras divides probabilities by their sum; {CLIPPED}"

# y are the targets or labels, x the predictions, in both calls.
KERAS = [
    Row("mean_squared_error(y, x)", "squared_error(x, y).mean(-1)", MEAN),
    Row("mean_absolute_error(y, x)", "absolute_error(x, y).mean(-1)", f"{MEAN}; at a hit its gradient is -1, here 0"),
    Row(
        "mean_absolute_percentage_error(y, x)",
        "absolute_percentage_error(x, y).mean(-1)",
        f"{MEAN}, and divides by at least 1e-7; here a target of 0 costs infinity",
        "positive",
        "positive",
    ),
    Row(
        "mean_squared_logarithmic_error(y, x)",
        "squared_logarithmic_error(x, y).mean(-1)",
        f"{MEAN}, and raises its inputs to 1e-7; here they reach down to -1",
        "positive",
        "positive",
    ),
    Row("huber(y, x, delta=0.7)", "huber_loss(x, y, delta=0.7).mean(-1)", MEAN),
    Row("log_cosh(y, x)", "log_cosh(x, y).mean(-1)", f"{MEAN}; near 0 it rounds to 0 or below"),
    Row(
        "poisson(y, x)",
        "poisson_nll_loss(x, y).mean(-1)",
        f"{MEAN}, and adds 1e-7 to the rate",
        "positive",
        "count",
    ),
    Row("hinge(y, x)", "hinge_loss(x, y).mean(-1)", f"labels -1 and 1; {MEAN}", "real", "sign"),
    Row("hinge(y, x)", "hinge_loss(x, 2 * y - 1).mean(-1)", f"labels 0 and 1; {ZERO_ONE}; {MEAN}", "real", "bit"),
    Row("squared_hinge(y, x)", "squared_hinge_loss(x, y).mean(-1)", f"labels -1 and 1; {MEAN}", "real", "sign"),
    Row(
        "squared_hinge(y, x)",
        "squared_hinge_loss(x, 2 * y - 1).mean(-1)",
        f"labels 0 and 1; {ZERO_ONE}; {MEAN}",
        "real",
        "bit",
    ),
    Row(
        "categorical_hinge(y, x)",
        "categorical_hinge_loss_with_zero_class(x, y)",
        "the name: a label must also beat 0; without that, `multiclass_hinge_loss`",
        "real",
        "one-hot",
    ),
    Row("cosine_similarity(y, x)", "-cosine_similarity(x, y)", "the sign: Keras' is a loss, and negative"),
    Row("cosine_similarity(y, x)", "cosine_distance(x, y) - 1", "the same, exact where vectors are near"),
    Row(
        "kl_divergence(y, x)",
        "kl_divergence(jnp.log(x), y)",
        "log-probabilities here; Keras raises probabilities to at least 1e-7",
        "distribution",
        "distribution",
    ),
    Row(
        "categorical_crossentropy(y, x, from_logits=True)",
        "softmax_cross_entropy(x, y)",
        "logits are the default here",
        "real",
        "distribution",
    ),
    Row(
        "categorical_crossentropy(y, x, from_logits=True, label_smoothing=0.1)",
        "softmax_cross_entropy(x, y, label_smoothing=0.1)",
        "logits are the default here",
        "real",
        "distribution",
    ),
    Row(
        "categorical_crossentropy(y, x)",
        "categorical_cross_entropy(x, y)",
        RENORMALISED,
        "distribution",
        "distribution",
    ),
    Row(
        "categorical_crossentropy(y, x, label_smoothing=0.1)",
        "categorical_cross_entropy(x, smooth_labels(y, 0.1))",
        RENORMALISED,
        "distribution",
        "distribution",
    ),
    Row(
        "sparse_categorical_crossentropy(y, x, from_logits=True)",
        "softmax_cross_entropy_with_integer_labels(x, y)",
        "a label out of range: NaN here, 0 with gradient 0 in Keras",
        "real",
        "index",
    ),
    Row(
        "sparse_categorical_crossentropy(y, x, from_logits=True, ignore_class=2)",
        "softmax_cross_entropy_with_integer_labels(x, y, where=y != 2)",
        "`where` says what is kept",
        "real",
        "index",
    ),
    Row(
        "sparse_categorical_crossentropy(y, x)",
        "categorical_cross_entropy_with_integer_labels(x, y)",
        RENORMALISED,
        "distribution",
        "index",
    ),
    Row(
        "binary_crossentropy(y, x, from_logits=True)",
        "sigmoid_binary_cross_entropy(x, y).mean(-1)",
        f"{MEAN}; logits are the default here",
        "real",
        "probability",
    ),
    Row(
        "binary_crossentropy(y, x, from_logits=True, label_smoothing=0.1)",
        "sigmoid_binary_cross_entropy(x, y, label_smoothing=0.1).mean(-1)",
        f"{MEAN}; logits are the default here",
        "real",
        "probability",
    ),
    Row(
        "binary_crossentropy(y, x)",
        "binary_cross_entropy(x, y).mean(-1)",
        f"{MEAN}; {CLIPPED}",
        "probability",
        "probability",
    ),
    Row(
        "binary_crossentropy(y, x, label_smoothing=0.1)",
        "binary_cross_entropy(x, y, label_smoothing=0.1).mean(-1)",
        f"{MEAN}; {CLIPPED}",
        "probability",
        "probability",
    ),
    Row(
        "categorical_generalized_cross_entropy(y, x, q=0.7)",
        "generalized_cross_entropy(x, y, q=0.7)",
        "with a small q Keras loses digits; here q = 0 is the cross entropy",
        "distribution",
        "index",
    ),
    Row(
        "ctc(y, x)",
        "ctc_loss(x, labels=y, label_paddings=y == 0)",
        "of logits in both; Keras takes class 0 for the blank and for padding, and all frames; a sequence that no "
        "alignment gives costs 1e5 there, with a gradient, and infinity here, without one",
        "frames",
        "sequences",
    ),
]

NOT_HERE_YET = [
    "binary_focal_crossentropy",
    "categorical_focal_crossentropy",
    "circle",
    "dice",
    "tversky",
]


HEAD = """\
# From Keras

The functions of `keras.losses`, what to call from `jaxloss` instead, and what differs. `x` are predictions, `y` are
targets, which Keras takes first. The tests run every row, both sides, on random inputs.

| Keras | here | what differs |
|---|---|---|
"""

TAIL = """
Not here yet: {missing}.

The classes, such as `keras.losses.Huber()`, average over everything: `reduction="mean"` here. With `sample_weight`
Keras divides by the number of entries, here the mean divides by the sum of the weights: for the number of Keras take
`reduction="sum"` over the number of entries. A weight for each row of an elementwise loss is `weights=w[:, None]`.

`from_logits=False` is the default of Keras: a model that ends in a softmax or a sigmoid. Take that last activation away
and use the loss of logits. It is exact where a probability has rounded to 0 or 1; from such a probability, which is not
clipped here, the gradient is NaN behind the activation.
"""


def page() -> str:
    """The page, as Markdown."""
    rows = "".join(f"| `{row.theirs}` | `{row.ours}` | {row.difference} |\n" for row in KERAS)
    return HEAD + rows + TAIL.format(missing=", ".join(f"`{name}`" for name in NOT_HERE_YET))


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
