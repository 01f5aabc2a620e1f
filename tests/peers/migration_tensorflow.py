"""From TensorFlow: the losses of `tf.nn` and of `tf.compat.v1.losses`."""

from migration import Peer, Row, Wrong

BY_NONZERO = "TensorFlow divides by the number of weights that are not 0, not by their sum"
MASKED = "a weight of 0 masks here, there it multiplies"
OUT_OF_RANGE = "a label out of range: NaN here and on GPUs there"
COUNTS = "`sampled_values` there; here an expected count for each class, as its logarithm"

ROWS = [
    # classes
    Row(
        "tf.nn.softmax_cross_entropy_with_logits(y, x)",
        "softmax_cross_entropy(x, y)",
        "the gradient there is that of labels that sum to 1, whatever they sum to",
        "real",
        "shares",
        by="xy",
        wrong=(
            Wrong("x=[[17, 0]], y=[[1, 0]]", "[0]", "[log1p(exp(-17))]"),
            Wrong("x=[[17, 0]], y=[[1, 0]]", "[[0, 4.14e-8]]", "[[-1 / (1 + exp(17)), 1 / (1 + exp(17))]]", "gradient"),
            Wrong("x=[[0, 0]], y=[[1, 1]]", "[[-0.5, -0.5]]", "[[0, 0]]", "gradient"),
            Wrong("x=[[0, -inf]], y=[[1, 0]]", "[nan]", "[0]"),
            Wrong("x=[[3e38, -3e38]], y=[[1, 0]]", "[nan]", "[0]"),
        ),
    ),
    Row(
        "tf.nn.softmax_cross_entropy_with_logits(tf.transpose(y), tf.transpose(x), axis=0)",
        "softmax_cross_entropy(x.T, y.T, axis=0)",
        "",
        "real",
        "shares",
    ),
    Row(
        "tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)",
        "softmax_cross_entropy_with_integer_labels(x, y)",
        OUT_OF_RANGE,
        "real",
        "index",
        wrong=(
            Wrong("x=[[17, 0]], y=[0]", "[0]", "[log1p(exp(-17))]"),
            Wrong("x=[[1, 0]], y=[-1]", "InvalidArgumentError", "[nan]"),
            Wrong("x=[[1, 0]], y=[2]", "InvalidArgumentError", "[nan]"),
        ),
    ),
    # yes or no
    Row(
        "tf.nn.sigmoid_cross_entropy_with_logits(y, x)",
        "sigmoid_binary_cross_entropy(x, y)",
        "",
        "real",
        "soft",
        by="xy",
        wrong=(
            Wrong("x=[inf], y=[1]", "[nan]", "[0]"),
            Wrong("x=[inf], y=[0]", "[nan]", "[inf]"),
            Wrong("x=[-inf], y=[0]", "[nan]", "[0]"),
        ),
    ),
    Row(
        "tf.nn.weighted_cross_entropy_with_logits(y, x, pos_weight=w)",
        "sigmoid_binary_cross_entropy(x, y, pos_weight=w)",
        "the gradient at a logit of 0 is wrong there, and 1 swallows a small weight",
        "real",
        "soft",
        apart="zeros",
        wrong=(
            Wrong("x=[0], y=[1], w=[2]", "[0]", "[-1]", "gradient"),
            Wrong("x=[0], y=[0], w=[2]", "[1]", "[0.5]", "gradient"),
            Wrong("x=[-1], y=[1], w=[1e-8]", "[0]", "[mpf(1e-8) * log(1 + e)]"),
            Wrong("x=[-1], y=[1], w=[1e-8]", "[0]", "[-mpf(1e-8) / (1 + exp(-1))]", "gradient"),
            Wrong("x=[inf], y=[1], w=[2]", "[nan]", "[0]"),
        ),
    ),
    # of a sample of the classes
    Row(
        "tf.nn.sampled_softmax_loss(z, z[:, 0], y[:, None], x, 4, 7, "
        "sampled_values=([0, 3, 5, 6], tf.gather(e, y)[:, None], tf.gather(e, [0, 3, 5, 6])))",
        "sampled_softmax_loss(x, z, y[:, None], jnp.array([0, 3, 5, 6]), log_expected_counts=jnp.log(e), "
        "bias=z[:, 0], class_axis=0)",
        COUNTS,
        "real",
        "token",
        "head real",
        by="xz",
        wrong=(
            Wrong(
                "x=[[17]], y=[1], z=[[0], [1], [0], [0], [0], [0], [0]], e=ones(7)",
                "[0]",
                "[log1p(4 * exp(-18))]",
            ),
            Wrong(
                "x=[[17]], y=[7], z=[[0], [1], [0], [0], [0], [0], [0]], e=ones(7)",
                "InvalidArgumentError",
                "[nan]",
            ),
        ),
    ),
    Row(
        "tf.nn.sampled_softmax_loss(z, z[:, 0], y[:, None], x, 4, 7, "
        "sampled_values=([0, 3, 3, 6], tf.ones([len(y), 1]), tf.ones(4)))",
        "sampled_softmax_loss(x, z, y[:, None], jnp.array([0, 3, 3, 6]), bias=z[:, 0], class_axis=0)",
        "a label that was drawn twice: both are left out here, one of them there",
        "real",
        "token",
        "head real",
        by="xz",
        apart="random zeros equal far farther hit",
        wrong=(Wrong("x=[[0]], y=[3], z=zeros([7, 1])", "[1.386]", "[log(3)]"),),
    ),
    Row(
        "tf.nn.sampled_softmax_loss(z, z[:, 0], tf.stack([y, (y + 1) % 7], 1), x, 4, 7, num_true=2, "
        "sampled_values=([0, 3, 5, 6], tf.ones([16, 2]), tf.ones(4)), remove_accidental_hits=False)",
        "sampled_softmax_loss(x, z, jnp.stack([y, (y + 1) % 7], 1), jnp.array([0, 3, 5, 6]), bias=z[:, 0], "
        "class_axis=0, remove_accidental_hits=False)",
        "several labels; rows of fewer are padded with -1 here",
        "real",
        "token",
        "head real",
        by="xz",
    ),
    Row(
        "tf.nn.nce_loss(z, z[:, 0], y[:, None], x, 4, 7, "
        "sampled_values=([0, 3, 5, 6], tf.gather(e, y)[:, None], tf.gather(e, [0, 3, 5, 6])))",
        "nce_loss(x, z, y[:, None], jnp.array([0, 3, 5, 6]), log_expected_counts=jnp.log(e), bias=z[:, 0], "
        "class_axis=0)",
        COUNTS,
        "real",
        "token",
        "head real",
        by="xz",
    ),
    Row(
        "tf.nn.nce_loss(z, z[:, 0], tf.stack([y, (y + 1) % 7], 1), x, 4, 7, num_true=2, "
        "sampled_values=([0, 3, 5, 6], tf.ones([16, 2]), tf.ones(4)), remove_accidental_hits=True)",
        "nce_loss(x, z, jnp.stack([y, (y + 1) % 7], 1), jnp.array([0, 3, 5, 6]), bias=z[:, 0], class_axis=0, "
        "remove_accidental_hits=True)",
        "",
        "real",
        "token",
        "head real",
        by="xz",
    ),
    # elements
    Row(
        "tf.nn.l2_loss(x)",
        'l2_loss(x, reduction="sum")',
        "a sum there",
        wrong=(Wrong("x=[300]", "inf", "45000", dtype="float16"),),
    ),
    Row(
        "tf.nn.log_poisson_loss(y, x)",
        "poisson_nll_loss_with_log_rates(x, y)",
        "of log-rates",
        "log rate",
        "count",
        by="xy",
        wrong=(Wrong("x=[-inf], y=[0]", "[nan]", "[0]"),),
    ),
    Row(
        "tf.nn.log_poisson_loss(y, x, compute_full_loss=True)",
        "poisson_nll_loss_with_log_rates(x, y, full=True)",
        "TensorFlow approximates log(y!) by Stirling's formula, and by 0 up to 1; exact here",
        "log rate",
        "count",
        apart="random zeros equal far farther hit",
        wrong=(
            Wrong("x=[0], y=[2]", "[1.652]", "[1 + log(2)]"),
            Wrong("x=[0], y=[0.5]", "[1]", "[1 + loggamma(1.5)]"),
        ),
    ),
    # sequences
    Row(
        "tf.nn.ctc_loss(y, x, tf.math.count_nonzero(y, 1), [9, 7, 4], logits_time_major=False, blank_index=0)",
        "ctc_loss(x, labels=y, logit_lengths=jnp.array([9, 7, 4]), label_lengths=(y > 0).sum(1))",
        "the frames come first there unless told; what no alignment gives costs infinity here",
        "frames real",
        "sequences",
        wrong=(
            Wrong("x=zeros([3, 9, 5]), y=ones([3, 5])", "[14.5, 707, 707]", "[9 * log(5), inf, inf]"),
            Wrong(
                "x=17 * eye(5)[ones([3, 9], int)], y=ones([3, 1])",
                "[0, 0, 0]",
                "[n * log1p(4 * exp(-17)) + 2 * log1p(-exp(-17)) for n in (9, 7, 4)]",
            ),
            Wrong(
                "x=where(arange(5) < 4, 0, -inf) + zeros([3, 9, 5]), y=ones([3, 1])",
                "[nan, nan, nan]",
                "[9 * log(4) - log(45), 7 * log(4) - log(28), 4 * log(4) - log(10)]",
            ),
            Wrong("x=zeros([3, 9, 5]), y=5 * ones([3, 1])", "[-0.446, -0.446, -0.44]", "[nan, nan, nan]"),
        ),
    ),
    Row(
        "tf.nn.ctc_loss(y, tf.transpose(x, [1, 0, 2]), tf.math.count_nonzero(y, 1), [9, 9, 9], blank_index=-1)",
        "ctc_loss(x, labels=y, label_lengths=(y > 0).sum(1), blank_id=-1)",
        "",
        "frames real",
        "other sequences",
    ),
    Row(
        "tf.nn.ctc_loss(tf.sparse.from_dense(y), tf.transpose(x, [1, 0, 2]), None, [9, 7, 4], blank_index=-1)",
        "ctc_loss(x, labels=y, logit_lengths=jnp.array([9, 7, 4]), label_lengths=(y > 0).sum(1), blank_id=-1)",
        "sparse labels have a kernel of their own there",
        "frames real",
        "other sequences",
        apart="farther",
        wrong=(
            Wrong(
                "x=200 * eye(5)[zeros([3, 9], int)], y=ones([3, 1])",
                "[inf, inf, inf]",
                "[1800 - log(45), 1400 - log(28), 800 - log(10)]",
            ),
            Wrong("x=zeros([3, 9, 5]), y=ones([3, 5])", "InvalidArgumentError", "[9 * log(5), inf, inf]"),
        ),
    ),
    # the mean over replicas
    Row(
        "tf.nn.compute_average_loss(tf.nn.softmax_cross_entropy_with_logits(y, x), sample_weight=u, "
        "global_batch_size=32)",
        'softmax_cross_entropy(x, y, weights=u, reduction="sum") / 32',
        "divided by the examples of all replicas",
        "real",
        "shares",
    ),
    # of TensorFlow 1
    Row(
        "tf.compat.v1.losses.softmax_cross_entropy(y, x, label_smoothing=0.1)",
        'softmax_cross_entropy(x, y, label_smoothing=0.1, reduction="mean")',
        "",
        "real",
        "one-hot",
    ),
    Row(
        "tf.compat.v1.losses.softmax_cross_entropy(y, x, weights=tf.cast(keep, tf.float32))",
        'softmax_cross_entropy(x, y, where=keep, reduction="mean")',
        f"of weights 0 and 1, the mean of what is kept, in both; {MASKED}",
        "real",
        "one-hot",
    ),
    Row(
        "tf.compat.v1.losses.sparse_softmax_cross_entropy(y, x, weights=u)",
        'softmax_cross_entropy_with_integer_labels(x, y, weights=u, reduction="sum") / (u != 0).sum()',
        BY_NONZERO,
        "real",
        "index",
        wrong=(
            Wrong("x=[[17, 0]], y=[0], u=[1]", "0", "log1p(exp(-17))"),
            Wrong("x=[[0, 0], [0, nan]], y=[0, 0], u=[1, 0]", "nan", "log(2)"),
            Wrong("x=[[0, 0], [0, 0]], y=[0, -1], u=[1, 0]", "InvalidArgumentError", "log(2)"),
        ),
    ),
    Row(
        "tf.compat.v1.losses.sigmoid_cross_entropy(y, x, label_smoothing=0.1)",
        'sigmoid_binary_cross_entropy(x, y, label_smoothing=0.1, reduction="mean")',
        "",
        "real",
        "bit",
    ),
    Row(
        "tf.compat.v1.losses.log_loss(y, x, epsilon=0.0)",
        'binary_cross_entropy(x, y, reduction="mean")',
        "nothing is added to a probability here",
        "probability",
        "soft",
        wrong=(
            Wrong("x=[0], y=[0]", "nan", "0"),
            Wrong("x=[1], y=[1]", "nan", "0"),
        ),
    ),
    Row(
        "tf.compat.v1.losses.log_loss(y, x)",
        'binary_cross_entropy(x, y, reduction="mean")',
        "1e-7 is added to each probability there, so that a hit costs less than nothing; here a probability of 0 costs "
        "infinity",
        "probability",
        "soft",
        apart="far farther",
        wrong=(
            Wrong("x=[0], y=[1]", "16.1", "inf"),
            Wrong("x=[0], y=[1]", "[-1e7]", "[-inf]", "gradient"),
            Wrong("x=[1e-10], y=[1]", "16.1", "-log(mpf(1e-10))"),
            Wrong("x=[1], y=[1]", "-1.19e-7", "0"),
        ),
    ),
    Row(
        "tf.compat.v1.losses.hinge_loss(y, x)",
        'hinge_loss(x, 2 * y - 1, reduction="mean")',
        "labels 0 and 1 there",
        "real",
        "bit",
    ),
    Row("tf.compat.v1.losses.mean_squared_error(y, x)", 'squared_error(x, y, reduction="mean")'),
    Row(
        "tf.compat.v1.losses.mean_squared_error(y, x, v)",
        'squared_error(x, y, weights=v, reduction="sum") / (v != 0).sum()',
        f"{BY_NONZERO}; {MASKED}",
        wrong=(
            Wrong("x=[nan, 1], y=[0, 0], v=[0, 1]", "nan", "1"),
            Wrong("x=[1e20, 1], y=[0, 0], v=[0, 1]", "nan", "1"),
            Wrong("x=[nan, 1], y=[0, 0], v=[0, 1]", "[nan, 2]", "[0, 2]", "gradient"),
        ),
    ),
    Row(
        'tf.compat.v1.losses.mean_squared_error(y, x, v, reduction="weighted_mean")',
        'squared_error(x, y, weights=v, reduction="mean")',
        "divided by the sum of the weights, in both",
    ),
    Row(
        "tf.compat.v1.losses.absolute_difference(y, x, u[:, None])",
        'absolute_error(x, y, weights=u[:, None], reduction="sum") / x.size',
        "weights of rows count for each of their entries",
    ),
    Row(
        'tf.compat.v1.losses.absolute_difference(y, x, v, reduction="none")',
        "absolute_error(x, y, weights=v)",
    ),
    Row("tf.compat.v1.losses.huber_loss(y, x, delta=0.7)", 'huber_loss(x, y, delta=0.7, reduction="mean")'),
    Row(
        'tf.compat.v1.losses.huber_loss(y, x, v, reduction="weighted_sum_over_batch_size")',
        'huber_loss(x, y, weights=v, reduction="sum") / x.size',
        "divided by the number of entries",
    ),
    Row(
        "tf.compat.v1.losses.cosine_distance(tf.nn.l2_normalize(y, 1), tf.nn.l2_normalize(x, 1), axis=1)",
        'cosine_distance(x, y, axis=1, reduction="mean")',
        "TensorFlow takes vectors of length 1, and does not look; here only directions count",
        wrong=(
            Wrong("x=[[1, 2**-13]], y=[[1, 0]]", "0", "1 - 1 / sqrt(1 + mpf(2) ** -26)"),
            Wrong("x=[[1e20, 0]], y=[[1, 0]]", "1", "0"),
            Wrong("x=[[1e-10, 0]], y=[[1, 0]]", "0.9999", "0"),
        ),
    ),
    Row(
        "tf.compat.v1.losses.mean_pairwise_squared_error(y, x, tf.ones([len(y), 1]))",
        '4 / (x.shape[1] - 1) * l2_loss(x - y, (x - y).mean(1, keepdims=True) + 0 * x, reduction="sum")',
        "no twin here: the mean squared error between pairs of a row's errors, which is twice their variance, summed "
        "over rows",
        wrong=(
            Wrong("x=[[10000, 10001]], y=[[0, 0]]", "0", "1"),
            Wrong("x=[[3e19, 3e19]], y=[[0, 0]]", "nan", "0"),
        ),
    ),
    Row(
        "tf.compat.v1.losses.mean_pairwise_squared_error(y, x)",
        '4 / (x.shape[1] - 1) * l2_loss(x - y, (x - y).mean(1, keepdims=True) + 0 * x, reduction="sum")',
        "without weights TensorFlow counts the entries of all rows, unless in a graph",
        apart="random equal far farther",
        wrong=(Wrong("x=[[1, 0], [0, 0]], y=[[0, 0], [0, 0]]", "0.5", "1"),),
    ),
    Row(
        'tf.compat.v1.losses.compute_weighted_loss(tf.abs(x), v, reduction="weighted_sum")',
        'reduce(jnp.abs(x), weights=v, reduction="sum")',
        "of losses that are there",
        "positive",
    ),
]

TENSORFLOW = Peer(
    "TensorFlow",
    """\
Of `tf.nn` and `tf.compat.v1.losses`, at 2.21.0. `tf.keras.losses` are those of Keras 3, above. TensorFlow takes the
targets first. `w` has a weight for each class, `u` one for each row, `v` one for each entry, `keep` a `bool` for each
row, and `e` says how often each of 7 classes is expected in a sample.
""",
    ROWS,
    """\
The default of `tf.compat.v1.losses` is `SUM_BY_NONZERO_WEIGHTS`: without weights the mean, `reduction="mean"` here; a
mean of nothing is 0, in both. The sample of `sampled_softmax_loss` and `nce_loss` is drawn by you here.
`tf.nn.scale_regularization_loss` and the collections of TensorFlow 1 (`add_loss`, `get_total_loss`) are not here.
""",
)
