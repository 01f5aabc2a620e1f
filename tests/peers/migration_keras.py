"""From Keras: the functions of `keras.losses`, and what its classes add."""

from migration import Peer, Row, Wrong

MEAN = "Keras averages over the last axis"
ZERO_ONE = "Keras takes 0 for -1 if all labels of the batch are 0 or 1"
CLIPPED = "Keras clips probabilities to [1e-7, 1 - 1e-7], here a probability of 0 costs infinity"
RENORMALISED = f"Keras divides probabilities by their sum; {CLIPPED}"
NO_NORM = "Keras adds 1e-7 below, so that an empty mask that is right costs 1"
FOCAL = "Keras computes it from clipped probabilities even of logits"
KINK = "where a margin is just met the gradient is half the slope there, 0 here"

ROWS = [
    # elements
    Row("mean_squared_error(y, x)", "squared_error(x, y).mean(-1)", MEAN),
    Row(
        "mean_absolute_error(y, x)",
        "absolute_error(x, y).mean(-1)",
        MEAN,
        apart="zeros hit",
        wrong=(Wrong("x=[2], y=[2]", "[-1]", "[0]", "gradient"),),
    ),
    Row(
        "mean_absolute_percentage_error(y, x)",
        "absolute_percentage_error(x, y).mean(-1)",
        f"{MEAN}, and divides by at least 1e-7; here a target of 0 costs infinity",
        "positive",
        "positive",
        apart="zeros hit",
        wrong=(Wrong("x=[2], y=[2]", "[-50]", "[0]", "gradient"),),
    ),
    Row(
        "mean_squared_logarithmic_error(y, x)",
        "squared_logarithmic_error(x, y).mean(-1)",
        f"{MEAN}, and raises its inputs to 1e-7; here they reach down to -1",
        "positive",
        "positive",
        wrong=(
            Wrong(
                "x=[2**-13], y=[2**-13 + 2**-27]",
                "0",
                "(log1p(mpf(2) ** -13 + mpf(2) ** -27) - log1p(mpf(2) ** -13))**2",
            ),
            Wrong("x=[-0.5], y=[0]", "0", "log(2)**2"),
        ),
    ),
    Row(
        "huber(y, x, delta=0.7)",
        "huber_loss(x, y, delta=0.7).mean(-1)",
        MEAN,
        wrong=(Wrong("x=[inf], y=[0]", "[nan]", "[0.7]", "gradient"),),
    ),
    Row(
        "log_cosh(y, x)",
        "log_cosh(x, y).mean(-1)",
        MEAN,
        wrong=(
            Wrong("x=[1e-4], y=[0]", "0", "log(cosh(mpf(1e-4)))"),
            Wrong("x=[-3e38], y=[0]", "inf", "mpf(3e38)"),
        ),
    ),
    Row(
        "poisson(y, x)",
        "poisson_nll_loss(x, y).mean(-1)",
        f"{MEAN}, and adds 1e-7 to the rate",
        "positive",
        "count",
        wrong=(Wrong("x=[1e-10], y=[1]", "16.1", "mpf(1e-10) - log(mpf(1e-10))"),),
    ),
    # margins
    Row("hinge(y, x)", "hinge_loss(x, y).mean(-1)", f"labels -1 and 1; {KINK}; {MEAN}", "real", "sign", apart="hit"),
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
    # directions and distributions
    Row(
        "cosine_similarity(y, x)",
        "-cosine_similarity(x, y)",
        "the sign: Keras' is a loss, and negative",
        apart="zeros",
        wrong=(
            Wrong("x=[0, 0], y=[1, 0]", "[nan, nan]", "[0, 0]", "gradient"),
            Wrong("x=[1e20, 0], y=[1, 0]", "0", "-1"),
            Wrong("x=[300, 300], y=[300, 300]", "0", "-1", dtype="float16"),
        ),
    ),
    Row("cosine_similarity(y, x, axis=0)", "-cosine_similarity(x, y, axis=0)", apart="zeros"),
    Row(
        "cosine_similarity(y, x)",
        "cosine_distance(x, y) - 1",
        "the same, exact where vectors are near",
        apart="zeros",
    ),
    Row(
        "kl_divergence(y, x)",
        "kl_divergence(jnp.log(x), y)",
        "log-probabilities here; Keras raises probabilities to at least 1e-7",
        "distribution",
        "shares",
        wrong=(Wrong("x=[1e-10, 1], y=[1, 0]", "16.1", "-log(mpf(1e-10))"),),
    ),
    # cross entropies
    Row(
        "categorical_crossentropy(y, x, from_logits=True)",
        "softmax_cross_entropy(x, y)",
        "logits are the default here",
        "real",
        "shares",
        wrong=(
            Wrong("x=[0, -inf], y=[1, 0]", "nan", "0"),
            Wrong("x=[17, 0], y=[1, 0]", "0", "log1p(exp(-17))"),
        ),
    ),
    Row(
        "categorical_crossentropy(y, x, from_logits=True, axis=0)",
        "softmax_cross_entropy(x, y, axis=0)",
        "",
        "real",
        "shares",
    ),
    Row(
        "categorical_crossentropy(y, x, from_logits=True, label_smoothing=0.1)",
        "softmax_cross_entropy(x, y, label_smoothing=0.1)",
        "",
        "real",
        "shares",
    ),
    Row(
        "categorical_crossentropy(y, x)",
        "categorical_cross_entropy(x, y)",
        RENORMALISED,
        "distribution",
        "shares",
        wrong=(Wrong("x=[0, 1], y=[1, 0]", "16.1", "inf"),),
    ),
    Row(
        "categorical_crossentropy(y, x, label_smoothing=0.1)",
        "categorical_cross_entropy(x, smooth_labels(y, 0.1))",
        RENORMALISED,
        "distribution",
        "shares",
    ),
    Row(
        "sparse_categorical_crossentropy(y, x, from_logits=True)",
        "softmax_cross_entropy_with_integer_labels(x, y)",
        "a label out of range: NaN here, 0 with gradient 0 in Keras",
        "real",
        "index",
        wrong=(
            Wrong("x=[17, 0], y=0", "0", "log1p(exp(-17))"),
            Wrong("x=[1, 0], y=-1", "0", "nan"),
        ),
    ),
    Row(
        "sparse_categorical_crossentropy(y, x, from_logits=True, ignore_class=2)",
        "softmax_cross_entropy_with_integer_labels(x, y, where=y != 2)",
        "`where` says what is kept",
        "real",
        "index",
    ),
    Row(
        "sparse_categorical_crossentropy(y, x, from_logits=True, axis=1)",
        "softmax_cross_entropy_with_integer_labels(x, y, axis=1)",
        "",
        "images real",
        "image labels",
        apart="random zeros equal far farther hit",
        wrong=(Wrong("x=zeros([1, 2, 3]), y=[[0, 0, 1]]", "ValueError", "[[log(2), log(2), log(2)]]"),),
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
        "soft",
        wrong=(Wrong("x=[inf], y=[1]", "nan", "0"),),
    ),
    Row(
        "binary_crossentropy(y, x, from_logits=True, label_smoothing=0.1, axis=0)",
        "sigmoid_binary_cross_entropy(x, y, label_smoothing=0.1).mean(0)",
        f"{MEAN} or over `axis`",
        "real",
        "soft",
    ),
    Row(
        "binary_crossentropy(y, x)",
        "binary_cross_entropy(x, y).mean(-1)",
        f"{MEAN}; {CLIPPED}",
        "probability",
        "soft",
        wrong=(
            Wrong("x=[0], y=[1]", "16.1", "inf"),
            Wrong("x=[0], y=[1]", "[0]", "[-inf]", "gradient"),
            Wrong("x=[1], y=[1]", "nan", "0", dtype="float16"),
        ),
    ),
    Row(
        "binary_crossentropy(y, x, label_smoothing=0.1)",
        "binary_cross_entropy(x, y, label_smoothing=0.1).mean(-1)",
        f"{MEAN}; {CLIPPED}",
        "probability",
        "soft",
    ),
    Row(
        "categorical_generalized_cross_entropy(y, x, q=0.7)",
        "generalized_cross_entropy(x, y, q=0.7)",
        "",
        "distribution",
        "index",
    ),
    Row(
        "categorical_generalized_cross_entropy(y, x, q=1e-6)",
        "generalized_cross_entropy(x, y, q=1e-6)",
        "the smaller q, the fewer digits there; here q = 0 is the cross entropy",
        "distribution",
        "index",
        apart="random zeros equal far farther hit",
        wrong=(Wrong("x=[0.5, 0.5], y=0", "0.715", "(1 - 0.5**mpf(1e-6)) / mpf(1e-6)"),),
    ),
    # focal losses
    Row(
        "binary_focal_crossentropy(y, x, from_logits=True)",
        "sigmoid_focal_loss(x, y).mean(-1)",
        f"{MEAN}; {FOCAL}",
        "real",
        "bit",
        apart="far farther",
        wrong=(
            Wrong("x=[-100], y=[1]", "16.1", "100"),
            Wrong("x=[-100], y=[1]", "[0]", "[-1]", "gradient"),
        ),
    ),
    Row(
        "binary_focal_crossentropy(y, x, gamma=1.5, apply_class_balancing=True, alpha=0.3)",
        "sigmoid_focal_loss(logit(x), y, gamma=1.5, alpha=0.3).mean(-1)",
        f"{MEAN}; {CLIPPED}; `alpha` balances as soon as it is given",
        "probability",
        "soft",
    ),
    Row(
        "binary_focal_crossentropy(y, x, from_logits=True, label_smoothing=0.1)",
        "sigmoid_focal_loss(x, 0.9 * y + 0.05).mean(-1)",
        "smooth the labels before",
        "real",
        "bit",
        apart="far farther",
    ),
    Row(
        "categorical_focal_crossentropy(y, x, from_logits=True)",
        "softmax_focal_loss(x, y, alpha=0.25)",
        f"Keras multiplies by 0.25 if nothing is said; {FOCAL}",
        "real",
        "shares",
        apart="far farther",
        wrong=(
            Wrong("x=[0, 30], y=[1, 0]", "4.03", "0.25 * 30 * (1 / (1 + exp(-30)))**2 + 0.25 * log1p(exp(-30))"),
            Wrong("x=[0, 30], y=[1, 0]", "[0, 0]", "[-0.25, 0.25]", "gradient"),
        ),
    ),
    Row(
        "categorical_focal_crossentropy(y, x, alpha=[0.1, 0.2, 0.3, 0.4, 0.5], gamma=1.5)",
        "softmax_focal_loss(jnp.log(x), y, alpha=jnp.array([0.1, 0.2, 0.3, 0.4, 0.5]), gamma=1.5)",
        RENORMALISED,
        "distribution",
        "shares",
    ),
    Row(
        "categorical_focal_crossentropy(y, x, label_smoothing=0.1)",
        "softmax_focal_loss(jnp.log(x), smooth_labels(y, 0.1), alpha=0.25)",
        "smooth the labels before",
        "distribution",
        "shares",
    ),
    # segmentation
    Row(
        "dice(y, x)",
        "tversky_loss(x, y)",
        NO_NORM,
        "probability",
        "bit",
        wrong=(Wrong("x=[0, 0], y=[0, 0]", "1", "0"),),
    ),
    Row("dice(y, x, axis=(1,))", "tversky_loss(x, y, axis=1)", "", "probability", "soft"),
    Row(
        "tversky(y, x, alpha=0.3, beta=0.7)",
        "tversky_loss(x, y, alpha=0.7, beta=0.3)",
        f"Keras' `alpha` weighs false negatives, here it weighs false positives; {NO_NORM}",
        "probability",
        "bit",
    ),
    Row(
        "tversky(y, x, axis=(0,))",
        "tversky_loss(x, y, axis=0)",
        "",
        "probability",
        "soft",
        wrong=(Wrong("x=[[0]], y=[[0]]", "[1]", "[0]"),),
    ),
    # embeddings
    Row(
        "circle(y, ops.normalize(x))",
        "circle_loss(x, y)",
        "Keras multiplies the embeddings as they are; here only directions count, and zeros have the gradient 0",
        "real",
        "groups",
        apart="zeros",
    ),
    Row(
        "circle(y, ops.normalize(x), gamma=8, margin=0.3, remove_diagonal=False)",
        "circle_loss(x, y, gamma=8.0, margin=0.3, remove_diagonal=False)",
        "",
        "real",
        "groups",
        apart="zeros",
    ),
    Row(
        "circle(y, ops.normalize(x), ref_labels=y[::-1], ref_embeddings=ops.normalize(z), remove_diagonal=False)",
        "circle_loss(x, y, reference_labels=y[::-1], reference_embeddings=z, remove_diagonal=False)",
        "the names of what is compared with",
        "real",
        "groups",
        "real",
        apart="zeros",
    ),
    # sequences
    Row(
        "ctc(y, x)",
        "ctc_loss(x, labels=y, label_paddings=y == 0)",
        "of logits in both; Keras takes class 0 for the blank and for padding, and all frames",
        "frames real",
        "sequences",
        wrong=(Wrong("x=zeros([1, 1, 3]), y=[[1, 2]]", "[99999.5]", "[inf]"),),
    ),
    # what the classes add
    Row("MeanSquaredError()(y, x)", 'squared_error(x, y, reduction="mean")', "the mean of all"),
    Row('Huber(reduction="none")(y, x)', "huber_loss(x, y).mean(-1)", MEAN),
    Row('LogCosh(reduction="sum")(y, x)', "log_cosh(x, y).mean(-1).sum()", "the sum of the means"),
    Row(
        "MeanSquaredError()(y, x, sample_weight=u)",
        'squared_error(x, y, weights=u[:, None], reduction="sum") / x.size',
        "the weighted mean divides by the number of entries; here by the sum of the weights",
    ),
    Row(
        'CategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")(y, x, sample_weight=u)',
        'softmax_cross_entropy(x, y, weights=u, reduction="mean")',
        "so does this one",
        "real",
        "shares",
    ),
    Row(
        "SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)(y, x)",
        'softmax_cross_entropy_with_integer_labels(x, y, where=y != 2, reduction="mean")',
        "the mean of what is kept",
        "real",
        "index",
    ),
]

KERAS = Peer(
    "Keras",
    """\
Keras takes the targets first. `u` has a weight for each row.
""",
    ROWS,
    """\
`from_logits=False` is the default of Keras: a model that ends in a softmax or a sigmoid. Take that last activation away
and use the loss of logits. It is exact where a probability has rounded to 0 or 1; from such a probability, which is not
clipped here, the gradient is NaN behind the activation.
""",
)
