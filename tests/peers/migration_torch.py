"""From PyTorch: the losses of `torch.nn.functional`."""

from migration import Peer, Row, Wrong

LOGITS = "PyTorch's class axis is 1"
BY_NUMBER = "PyTorch divides by the number of entries, not by the sum of the weights"

ROWS = [
    # classes
    Row(
        "cross_entropy(x, y)",
        'softmax_cross_entropy_with_integer_labels(x, y, reduction="mean")',
        "the mean is the default there",
        "real",
        "index",
        wrong=(
            Wrong("x=zeros([1, 70000]), y=[0]", "inf", "log(70000)", dtype="float16"),
            Wrong("x=[[17, 0]], y=[0]", "0", "log1p(exp(-17))"),
        ),
    ),
    Row(
        'cross_entropy(x, y, reduction="none")',
        "softmax_cross_entropy_with_integer_labels(x, y, axis=1)",
        "the class axis is 1 there, -1 here",
        "images real",
        "image labels",
    ),
    Row(
        'cross_entropy(x, y, reduction="sum")',
        'softmax_cross_entropy_with_integer_labels(x, y, reduction="sum")',
        "",
        "real",
        "index",
    ),
    Row(
        "cross_entropy(x, y)",
        'softmax_cross_entropy_with_integer_labels(x, y, where=y != -100, reduction="mean")',
        "-100 is ignored there if nothing is said",
        "real",
        "ignored",
        wrong=(Wrong("x=[[1, 2]], y=[-100]", "nan", "0"),),
    ),
    Row(
        "cross_entropy(x, y, ignore_index=2)",
        'softmax_cross_entropy_with_integer_labels(x, y, where=y != 2, reduction="mean")',
        "`where` says what is kept",
        "real",
        "index",
    ),
    Row(
        "cross_entropy(x, y, weight=w)",
        'softmax_cross_entropy_with_integer_labels(x, y, class_weights=w, reduction="mean")',
        "divided by the sum of the weights of the labels, in both",
        "real",
        "index",
    ),
    Row(
        "cross_entropy(x, y, label_smoothing=0.1)",
        'softmax_cross_entropy_with_integer_labels(x, y, label_smoothing=0.1, reduction="mean")',
        "",
        "real",
        "index",
    ),
    Row(
        "cross_entropy(x, y, weight=w, label_smoothing=0.1)",
        'softmax_cross_entropy(x, w * smooth_labels(jax.nn.one_hot(y, 5), 0.1), reduction="sum") / w[y].sum()',
        "PyTorch weighs the smoothed labels, and divides by the weights of the others; here `class_weights` weighs and "
        "divides by those of the smoothed",
        "real",
        "index",
    ),
    Row(
        "cross_entropy(x, y)",
        'softmax_cross_entropy(x, y, reduction="mean")',
        "labels that are probabilities have a function of their own",
        "real",
        "shares",
        wrong=(Wrong("x=[[0, -inf]], y=[[1, 0]]", "nan", "0"),),
    ),
    Row(
        "cross_entropy(x, y, weight=w)",
        'softmax_cross_entropy(x, w * y, reduction="mean")',
        "of probabilities PyTorch divides by the number of rows; here `class_weights=w` divides by the weights",
        "real",
        "shares",
    ),
    Row(
        "cross_entropy(x, y, label_smoothing=0.1)",
        'softmax_cross_entropy(x, y, label_smoothing=0.1, reduction="mean")',
        "",
        "real",
        "shares",
    ),
    Row(
        "linear_cross_entropy(x, z, y)",
        'linear_cross_entropy(x, z, y, class_axis=0, reduction="mean")',
        "`z` is (classes, features) there, the transpose here unless `class_axis=0`",
        "real",
        "token",
        "head real",
        by="xz",
    ),
    Row(
        'linear_cross_entropy(x, z, y, linear_bias=z[:, 0], weight=z[:, 1].exp(), ignore_index=2, reduction="mean")',
        "linear_cross_entropy(x, z, y, class_axis=0, bias=z[:, 0], class_weights=jnp.exp(z[:, 1]), where=y != 2, "
        'reduction="mean")',
        "",
        "real",
        "token",
        "head real",
        by="x",
    ),
    Row(
        'linear_cross_entropy(x, z, y, label_smoothing=0.1, reduction="none")',
        "linear_cross_entropy(x, z, y, class_axis=0, label_smoothing=0.1)",
        "",
        "real",
        "token",
        "head real",
        by="xz",
    ),
    Row(
        "nll_loss(x, y)",
        'nll_loss(x, y, reduction="mean")',
        "of log-probabilities",
        "log shares",
        "index",
    ),
    Row(
        "nll_loss(x, y, weight=w, ignore_index=2)",
        'nll_loss(x, y, class_weights=w, where=y != 2, reduction="mean")',
        "",
        "log shares",
        "index",
    ),
    Row('nll_loss(x, y, reduction="none")', "nll_loss(x, y, axis=1)", "", "images real", "image labels"),
    # yes or no
    Row(
        "binary_cross_entropy_with_logits(x, y)",
        'sigmoid_binary_cross_entropy(x, y, reduction="mean")',
        "",
        "real",
        "soft",
        wrong=(
            Wrong("x=[17], y=[1]", "[0]", "[-1 / (1 + exp(17))]", "gradient"),
            Wrong("x=[inf], y=[1]", "nan", "0"),
        ),
    ),
    Row(
        'binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="none")',
        "sigmoid_binary_cross_entropy(x, y, pos_weight=w)",
        "",
        "real",
        "soft",
    ),
    Row(
        "binary_cross_entropy_with_logits(x, y, weight=v)",
        'sigmoid_binary_cross_entropy(x, y, weights=v, reduction="sum") / x.size',
        BY_NUMBER,
        "real",
        "soft",
    ),
    Row(
        "binary_cross_entropy(x, y)",
        'binary_cross_entropy(x, y, reduction="mean")',
        "PyTorch's logarithm is at least -100",
        "probability",
        "soft",
        wrong=(
            Wrong("x=[0], y=[1]", "100", "inf"),
            Wrong("x=[0], y=[1]", "[-1e12]", "[-inf]", "gradient"),
        ),
    ),
    Row(
        'binary_cross_entropy(x, y, weight=v, reduction="none")',
        "binary_cross_entropy(x, y, weights=v)",
        "",
        "probability",
        "soft",
    ),
    Row(
        "binary_cross_entropy(x, y, weight=v)",
        'binary_cross_entropy(x, y, weights=v, reduction="sum") / x.size',
        BY_NUMBER,
        "probability",
        "soft",
    ),
    Row(
        "multilabel_soft_margin_loss(x, y)",
        'sigmoid_binary_cross_entropy(x, y, reduction="mean")',
        "labels 0 and 1",
        "real",
        "bit",
        wrong=(Wrong("x=[[inf]], y=[[1]]", "nan", "0"),),
    ),
    Row(
        'multilabel_soft_margin_loss(x, y, weight=w, reduction="none")',
        "sigmoid_binary_cross_entropy(x, y, weights=w).mean(-1)",
        "PyTorch averages over the classes",
        "real",
        "bit",
    ),
    Row(
        "soft_margin_loss(x, y)",
        'soft_margin_loss(x, y, reduction="mean")',
        "labels -1 and 1, in both",
        "real",
        "sign",
        apart="farther",
        wrong=(
            Wrong("x=[-100], y=[1]", "inf", "100"),
            Wrong("x=[-100], y=[1]", "[nan]", "[-1]", "gradient"),
        ),
    ),
    # margins
    Row(
        "multi_margin_loss(x, y)",
        'weston_watkins_hinge_loss(x, y, reduction="mean") / x.shape[1]',
        "PyTorch divides by the number of classes; `multiclass_hinge_loss` has the largest instead of the sum",
        "real",
        "index",
    ),
    Row(
        'multi_margin_loss(x, y, p=2, margin=0.7, weight=w, reduction="none")',
        "weston_watkins_hinge_loss(x, y, power=2, margin=0.7, class_weights=w) / x.shape[1]",
        "",
        "real",
        "index",
    ),
    Row(
        "multi_margin_loss(x, y, weight=w)",
        'weston_watkins_hinge_loss(x, y, class_weights=w, reduction="sum") / x.size',
        BY_NUMBER,
        "real",
        "index",
    ),
    Row(
        'multilabel_margin_loss(x, y, reduction="none")',
        "multilabel_hinge_loss(x, jax.nn.one_hot(y, 5).max(-2)) / x.shape[1]",
        "lists of classes that end with -1 there, a 0 or 1 for each class here; PyTorch divides by the number of "
        "classes",
        "real",
        "lists",
    ),
    Row(
        "margin_ranking_loss(x, z, y, margin=0.3)",
        'margin_ranking_loss(x, z, y, margin=0.3, reduction="mean")',
        "",
        "real",
        "sign",
        by="xz",
    ),
    Row(
        "hinge_embedding_loss(x, y, margin=0.3)",
        'hinge_embedding_loss(x, y, margin=0.3, reduction="mean")',
        "`x` are distances",
        "positive",
        "sign",
    ),
    # elements
    Row("mse_loss(x, y)", 'squared_error(x, y, reduction="mean")'),
    Row(
        "mse_loss(x, y, weight=v)",
        'squared_error(x, y, weights=v, reduction="mean")',
        "divided by the sum of the weights, in both",
    ),
    Row('l1_loss(x, y, reduction="sum")', 'absolute_error(x, y, reduction="sum")', "a hit has gradient 0, in both"),
    Row("l1_loss(x, y, weight=v)", 'absolute_error(x, y, weights=v, reduction="mean")'),
    Row("huber_loss(x, y, delta=0.7)", 'huber_loss(x, y, delta=0.7, reduction="mean")'),
    Row("huber_loss(x, y, weight=v)", 'huber_loss(x, y, weights=v, reduction="sum") / x.size', BY_NUMBER),
    Row(
        "smooth_l1_loss(x, y, beta=0.7)",
        'smooth_l1_loss(x, y, beta=0.7, reduction="mean")',
        "`huber_loss(x, y, delta=beta) / beta`",
    ),
    Row('smooth_l1_loss(x, y, beta=0, reduction="none")', "smooth_l1_loss(x, y, beta=0)"),
    # likelihoods
    Row(
        "poisson_nll_loss(x, y)",
        'poisson_nll_loss_with_log_rates(x, y, reduction="mean")',
        "of log-rates, which have a function of their own",
        "log rate",
        "count",
    ),
    Row(
        "poisson_nll_loss(x, y, log_input=False, eps=0)",
        'poisson_nll_loss(x, y, reduction="mean")',
        "nothing is added to the rate here, 1e-8 there",
        "positive",
        "count",
    ),
    Row(
        'poisson_nll_loss(x, y, full=True, reduction="none")',
        "poisson_nll_loss_with_log_rates(x, y, full=True)",
        "PyTorch approximates log(y!) by Stirling's formula, and by 0 up to 1; exact here",
        "log rate",
        "count",
        apart="random zeros equal far farther hit",
        wrong=(
            Wrong("x=[0], y=[2]", "[1.652]", "[1 + log(2)]"),
            Wrong("x=[0], y=[0.5]", "[1]", "[1 + loggamma(1.5)]"),
        ),
    ),
    Row(
        "gaussian_nll_loss(x, y, z)",
        'gaussian_nll_loss(x, y, variance=z, reduction="mean")',
        "PyTorch raises a variance to at least 1e-6",
        "real",
        "real",
        "positive",
        by="xz",
        wrong=(Wrong("x=[2], y=[2], z=[1e-8]", "-6.91", "log(mpf(1e-8)) / 2"),),
    ),
    Row(
        'gaussian_nll_loss(x, y, z, full=True, reduction="none")',
        "gaussian_nll_loss(x, y, variance=z, full=True)",
        "",
        "real",
        "real",
        "positive",
    ),
    # divergences
    Row(
        "kl_div(x, y)",
        'kl_divergence(x, y, reduction="mean") / x.shape[-1]',
        "PyTorch's mean is over classes, too, and so not the divergence",
        "log shares",
        "shares",
        wrong=(Wrong("x=[[0, -inf]], y=[[1, 0]]", "nan", "0"),),
    ),
    Row('kl_div(x, y, reduction="batchmean")', 'kl_divergence(x, y, reduction="mean")', "", "log shares", "shares"),
    Row(
        'kl_div(x, y, reduction="none").sum(1)',
        "kl_divergence(x, y)",
        "the sum over classes here",
        "log shares",
        "shares",
    ),
    Row(
        'kl_div(x, y, log_target=True, reduction="sum")',
        'kl_divergence_with_log_targets(x, y, reduction="sum")',
        "a function of its own",
        "log shares",
        "log shares",
        wrong=(Wrong("x=[[0, log(0.5)]], y=[[-inf, 0]]", "nan", "log(2)"),),
    ),
    # directions and embeddings
    Row(
        "cosine_similarity(x, y)",
        "cosine_similarity(x, y, axis=1)",
        "the axis is 1 there, -1 here",
        wrong=(
            Wrong("x=[[1e20, 0]], y=[[1, 0]]", "[0]", "[1]"),
            Wrong("x=[[1e-10, 0]], y=[[1, 0]]", "[0.01]", "[1]"),
        ),
    ),
    Row(
        "cosine_similarity(x, y, dim=0, eps=2.0)",
        "cosine_similarity(x, y, axis=0, epsilon=4.0)",
        "of norms there, of squared norms here",
    ),
    Row(
        "cosine_embedding_loss(x, z, y)",
        'cosine_embedding_loss(x, z, y, reduction="mean")',
        "",
        "real",
        "row sign",
        wrong=(Wrong("x=[[1e20, 0]], z=[[1e20, 0]], y=[1]", "nan", "0"),),
        by="xz",
    ),
    Row(
        'cosine_embedding_loss(x, z, y, margin=0.2, reduction="none")',
        "cosine_embedding_loss(x, z, y, margin=0.2)",
        "",
        "real",
        "row sign",
        by="xz",
    ),
    Row(
        "triplet_margin_loss(x, y, z)",
        'triplet_margin_loss(x + 1e-6, y, z, eps=0.0, reduction="mean")',
        "PyTorch adds 1e-6 to each difference; here `eps` is in the root, 0 for none",
        apart="hit",
        by="xyz",
    ),
    Row(
        'triplet_margin_loss(x, y, z, p=1, margin=0.5, eps=0, reduction="none")',
        "triplet_margin_loss(x, y, z, norm_degree=1, margin=0.5, eps=0.0)",
        "",
        by="xyz",
    ),
    Row(
        'triplet_margin_loss(x, y, z, p=3, eps=0, swap=True, reduction="none")',
        "triplet_margin_loss(x, y, z, norm_degree=3, eps=0.0, swap=True)",
        "",
        by="xyz",
    ),
    Row(
        "triplet_margin_with_distance_loss(x, y, z, margin=0.2, "
        "distance_function=lambda a, b: 1 - cosine_similarity(a, b))",
        'margin_ranking_loss(cosine_distance(x, z), cosine_distance(x, y), jnp.ones(16), margin=0.2, reduction="mean")',
        "any distance: of the negative, then of the positive",
        by="xyz",
    ),
    Row(
        "triplet_margin_with_distance_loss(x, y, z, distance_function=lambda a, b: (a - b).abs().sum(1), swap=True)",
        "margin_ranking_loss(jnp.minimum(absolute_error(x, z).sum(1), absolute_error(y, z).sum(1)), "
        'absolute_error(x, y).sum(1), jnp.ones(16), margin=1.0, reduction="mean")',
        "`swap`, likewise",
        by="xyz",
    ),
    # sequences
    Row(
        'ctc_loss(x.transpose(0, 1), y, torch.tensor([9, 9, 9]), (y > 0).sum(1), reduction="none")',
        "ctc_loss(x, labels=y, label_lengths=(y > 0).sum(1))",
        "log-probabilities (frames, batch, classes) there, logits (batch, frames, classes) here, of which "
        "log-probabilities are some; all frames if nothing is said. The gradient of a loss of 1700 is off by 1e-4 "
        "there",
        "frames log shares",
        "sequences",
        apart="farther",
    ),
    Row(
        "ctc_loss(x.transpose(0, 1), y, torch.tensor([9, 7, 4]), (y > 0).sum(1))",
        "ctc_loss(x, labels=y, logit_lengths=jnp.array([9, 7, 4]), label_lengths=(y > 0).sum(1), "
        'weights=1 / (3 * (y > 0).sum(1)), reduction="sum")',
        "PyTorch's mean divides each loss by the number of its labels first",
        "frames log shares",
        "sequences",
    ),
    Row(
        "ctc_loss(x.transpose(0, 1), y, torch.tensor([9, 9, 2]), (y > 0).sum(1), blank=4, zero_infinity=True, "
        'reduction="sum")',
        "ctc_loss(x, labels=y, logit_lengths=jnp.array([9, 9, 2]), label_lengths=(y > 0).sum(1), blank_id=4, "
        'zero_infinity=True, reduction="sum")',
        "",
        "frames log shares",
        "other sequences",
        apart="farther",
    ),
]

TORCH = Peer(
    "PyTorch",
    """\
Of `torch.nn.functional`, and so of the modules of `torch.nn`. Its default is the mean, `reduction="mean"` here; else it
is the loss of each example. `w` has a weight for each class, `v` one for each entry.
""",
    ROWS,
    """\
The mean of all rows ignored is NaN there, 0 with gradient 0 here. `size_average` and `reduce` are not here.
""",
)
