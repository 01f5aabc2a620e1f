"""From optax: the losses of `optax.losses`, by the same calls."""

from migration import Peer, Row, Wrong, same

KINK = "where a margin is just met the gradient is half the slope there, 0 here"
TIE = "where the label ties with the best, they share the gradient there, and it is 0 here"

ROWS = [
    # classes
    same(
        "softmax_cross_entropy(x, y)",
        "",
        "real",
        "shares",
        wrong=(
            Wrong("x=[0, -inf], y=[1, 0]", "nan", "0"),
            Wrong("x=[3e38, -3e38], y=[1, 0]", "nan", "0"),
            Wrong("x=[17, 0], y=[1, 0]", "0", "log1p(exp(-17))"),
            Wrong("x=zeros(70000), y=arange(70000) == 0", "nan", "log(70000)", dtype="float16"),
        ),
    ),
    same("softmax_cross_entropy(x, y, axis=0)", "`axis` and `where` by position, too", "real", "shares"),
    same("softmax_cross_entropy(x, y, (0, 1))", "", "real", "shares"),
    same("softmax_cross_entropy(x, y, axis=None)", "", "real", "shares"),
    same("softmax_cross_entropy(x, y, where=keep)", "one `bool` a row: what is kept", "real", "shares"),
    same("softmax_cross_entropy(x, y, where=classes)", "one `bool` a class: the others are removed", "real", "shares"),
    same(
        "softmax_cross_entropy_with_integer_labels(x, y)",
        "a label out of range: NaN here, -1 is the last class there",
        "real",
        "index",
        wrong=(
            Wrong("x=[17, 0], y=0", "0", "log1p(exp(-17))"),
            Wrong("x=[17, 0], y=0", "[0, 4.14e-8]", "[-1 / (1 + exp(17)), 1 / (1 + exp(17))]", "gradient"),
            Wrong("x=[1e5, 99995], y=0", "0.00781", "log1p(exp(-5))"),
            Wrong("x=[10, 2], y=0", "0", "log1p(exp(-8))", dtype="bfloat16"),
            Wrong("x=zeros(70000), y=0", "inf", "log(70000)", dtype="float16"),
            Wrong("x=[0, 1], y=-1", "0.313", "nan"),
        ),
    ),
    same("softmax_cross_entropy_with_integer_labels(x, y, 1)", "", "images real", "image labels"),
    same("softmax_cross_entropy_with_integer_labels(x, y, axis=(0, 2))", "", "images real", "column labels"),
    same("softmax_cross_entropy_with_integer_labels(x, y, where=keep)", "", "real", "index"),
    same(
        "softmax_cross_entropy_with_integer_labels(x, y, where=classes)",
        "a label in a removed class costs infinity here",
        "real",
        "index",
        wrong=(Wrong("x=[1, 0], y=0, classes=[False, True]", "-1", "inf"),),
    ),
    same(
        "safe_softmax_cross_entropy(x, y)",
        "the same as `softmax_cross_entropy` here, which is safe",
        "real",
        "shares",
        wrong=(
            Wrong("x=[1, 2, -inf], y=[0, 1, 0]", "[nan, nan, nan]", "[1 / (1 + e), -1 / (1 + e), 0]", "forward"),
            Wrong("x=[17, 0], y=[1, 0]", "0", "log1p(exp(-17))"),
        ),
    ),
    same(
        "sigmoid_binary_cross_entropy(x, y)",
        "",
        "real",
        "soft",
        wrong=(Wrong("x=inf, y=1", "nan", "0"),),
    ),
    same(
        "sigmoid_focal_loss(x, y)",
        "",
        "real",
        "soft",
        wrong=(
            Wrong("x=inf, y=1", "nan", "0"),
            Wrong(
                "x=2, y=1",
                "-0.0248",
                "-2 / (1 + exp(2)) * tanh(1) * log1p(exp(-2)) - 2 / (1 + exp(2))**2",
                "by y",
            ),
        ),
    ),
    same("sigmoid_focal_loss(x, y, alpha=0.25, gamma=1.5)", "", "real", "soft"),
    same("sigmoid_focal_loss(x, y, gamma=0.0)", "", "real", "soft"),
    same("sigmoid_focal_loss(x, y, gamma=0.5)", "", "real", "bit"),
    same(
        "poly_loss_cross_entropy(x, y)",
        "",
        "real",
        "shares",
        wrong=(
            Wrong("x=[20, 0], y=[1, 0]", "0", "log1p(exp(-20)) + 2 / (1 + exp(20))"),
            Wrong("x=[0, -inf], y=[1, 0]", "nan", "0"),
        ),
    ),
    same("poly_loss_cross_entropy(x, y, epsilon=-0.5, axis=0)", "", "real", "shares"),
    same("poly_loss_cross_entropy(x, y, where=classes)", "", "real", "shares"),
    same(
        "ranking_softmax_loss(x, y)",
        "the mean by default, in both",
        "real",
        "bit",
        wrong=(Wrong("x=[17, 0], y=[1, 0]", "0", "log1p(exp(-17))"),),
    ),
    same("ranking_softmax_loss(x, y, where=classes, weights=v)", "", "real", "bit"),
    same("ranking_softmax_loss(x, y, reduce_fn=None)", "", "real", "bit"),
    same("ranking_softmax_loss(x, y, reduce_fn=jnp.sum)", "", "real", "bit"),
    # margins
    same("hinge_loss(x, y)", f"labels -1 and 1; {KINK}", "real", "sign", apart="hit"),
    same("perceptron_loss(x, y)", f"labels -1 and 1; {KINK}", "real", "sign", apart="zeros"),
    same(
        "multiclass_hinge_loss(x, y)",
        "",
        "real",
        "index",
        wrong=(
            Wrong("x=[1e8, 1e8], y=0", "0", "1"),
            Wrong("x=[1, 3], y=-1", "4", "nan"),
        ),
    ),
    same(
        "multiclass_perceptron_loss(x, y)",
        TIE,
        "real",
        "index",
        apart="zeros equal far farther",
    ),
    same("sparsemax_loss(x, y)", "labels 0 and 1; here they may be probabilities", "real", "bit"),
    same(
        "multiclass_sparsemax_loss(x, y)",
        "",
        "real",
        "index",
        wrong=(
            Wrong("x=[[2, 1, 0]], y=[1]", "TypeError", "[[1, -1, 0]]", "gradient", dtype="bfloat16"),
            Wrong("x=[1e6 + array([0, -0.5] + 998 * [-3])], y=[0]", "[-202]", "[0.0625]"),
        ),
    ),
    same(
        "make_fenchel_young_loss(logsumexp)(x, y)",
        "",
        "real",
        "shares",
        wrong=(Wrong("x=[0, -inf], y=[1, 0]", "nan", "0"),),
    ),
    # divergences
    same(
        "kl_divergence(x, y)",
        "",
        "log shares",
        "shares",
        wrong=(
            Wrong("x=[0, -inf], y=[1, 0]", "nan", "0"),
            Wrong("x=[-1, -2], y=[0, 1]", "[nan, 3]", "[-inf, 3]", "by y"),
        ),
    ),
    same("kl_divergence(x, y, 0)", "", "log shares", "shares"),
    same("kl_divergence(x, y, axis=None)", "", "log shares", "shares"),
    same(
        "kl_divergence(x, y, where=classes)",
        "",
        "log shares",
        "shares",
        wrong=(Wrong("x=[-1, -1], y=[1, nan], classes=[True, False]", "[2, nan]", "[2, 0]", "by y"),),
    ),
    same(
        "kl_divergence_with_log_targets(x, y)",
        "",
        "log shares",
        "log shares",
        wrong=(Wrong("x=[0, log(0.5)], y=[-inf, 0]", "nan", "log(2)"),),
    ),
    same("kl_divergence_with_log_targets(x, y, (0, 1), classes)", "", "log shares", "log shares"),
    same(
        "generalized_kl_divergence(x, y)",
        "",
        "log shares",
        "shares",
        wrong=(Wrong("x=[2**-13], y=[1]", "0", "expm1(mpf(2)**-13) - mpf(2)**-13"),),
    ),
    same("generalized_kl_divergence(x, y, 0, classes)", "", "log shares", "shares"),
    Row(
        "convex_kl_divergence(x, y)",
        "generalized_kl_divergence(x, y)",
        "the name, deprecated in optax: of all of its losses the one that is not here",
        "log shares",
        "shares",
    ),
    # sequences
    same(
        "ctc_loss(x, z, y, y == 0)",
        "paddings or lengths here; what no alignment gives costs infinity, without gradient",
        "frames real",
        "sequences",
        "frame paddings",
        wrong=(
            Wrong("x=zeros([1, 1, 3]), z=zeros([1, 1]), y=[[1, 2]]", "[99999.5]", "[inf]"),
            Wrong("x=[[[0, 0], [-3e5, 0], [0, 0]]], z=zeros([1, 3]), y=[[1, 1]]", "[99998.9]", "[3e5 + 2 * log(2)]"),
            Wrong("x=[[[0, 0, -inf], [0, 0, -inf]]], z=zeros([1, 2]), y=[[1]]", "[nan]", "[log(4) - log(3)]"),
        ),
    ),
    same(
        "ctc_loss(x, z, y, y == 0, blank_id=4, log_epsilon=-1e5)",
        "`log_epsilon` is not used here",
        "frames real",
        "other sequences",
        "frame paddings",
    ),
    same(
        "jnp.exp(ctc_loss_with_forward_probs(x, z, y, y == 0)[1])",
        "what is impossible is `-inf` here, -1e5 there",
        "frames real",
        "sequences",
        "frame paddings",
    ),
    # elements
    same("squared_error(x, y)", "what is of another shape raises in both"),
    same("squared_error(x)", "the targets may be left away, as in the next three losses"),
    same(
        "l2_loss(x, y)",
        "half of `squared_error`",
        wrong=(Wrong("x=300, y=0", "inf", "45000", dtype="float16"),),
    ),
    same("huber_loss(x, y, delta=0.7)", "another shape raises here, and is broadcast there"),
    same(
        "log_cosh(x, y)",
        "another shape raises here, and is broadcast there",
        wrong=(
            Wrong("x=1e-4, y=0", "0", "log(cosh(mpf(1e-4)))"),
            Wrong("x=0.0078125, y=0", "0", "log(cosh(0.0078125))", dtype="float16"),
        ),
    ),
    # directions
    same(
        "cosine_similarity(x, y)",
        "a zero vector has the similarity 0 here, and gradient 0",
        apart="zeros",
        wrong=(
            Wrong("x=[0, 0], y=[1, 0]", "nan", "0"),
            Wrong("x=[1e20, 0], y=[1e20, 0]", "0", "1"),
            Wrong("x=[1e-23, 0], y=[1, 0]", "nan", "1"),
            Wrong("x=[300, 300], y=[300, 300]", "0", "1", dtype="float16"),
        ),
    ),
    same("cosine_similarity(x, y, epsilon=4.0)", "of squared norms, in both"),
    same("cosine_similarity(x, y, axis=0)", "", apart="zeros"),
    same(
        "cosine_similarity(x, y, where=classes)",
        "",
        apart="zeros",
        wrong=(
            Wrong(
                "x=[1, 0, nan], y=[0, 1, 0], classes=[True, True, False]", "[nan, nan, nan]", "[0, 1, 0]", "gradient"
            ),
        ),
    ),
    same(
        "cosine_distance(x, y)",
        "",
        apart="zeros",
        wrong=(Wrong("x=[1, 2**-13], y=[1, 0]", "0", "1 - 1 / sqrt(1 + mpf(2)**-26)"),),
    ),
    same("cosine_distance(x, y, epsilon=4.0, axis=None)"),
    # segmentation
    same(
        "dice_loss(x, y)",
        "of logits; `reduction` is over classes, in both",
        "pixels real",
        "pixel classes",
    ),
    same("dice_loss(x, y, smooth=0.1, alpha=0.3, beta=0.7)", "", "pixels real", "pixel classes"),
    same("dice_loss(x, y, class_weights=w, ignore_background=True)", "", "pixels real", "pixel classes"),
    same('dice_loss(x, y, reduction="sum")', "", "pixels real", "pixel classes"),
    same('dice_loss(x, y, reduction="none", axis=(0, 1))', "", "pixels real", "pixel classes"),
    same(
        "dice_loss(x, y, apply_softmax=False)",
        "probabilities that do not sum to 1 raise there, and so does `jit`",
        "pixels distribution",
        "pixel classes",
    ),
    same("binary_dice_loss(x, y)", "", "pixels real", "pixel bits"),
    same("binary_dice_loss(x[..., 0], y[..., 0], smooth=0.1)", "", "pixels real", "pixel bits"),
    same(
        "binary_dice_loss(x, y, apply_sigmoid=False)",
        "raises there, whatever it gets",
        "probability",
        "bit",
        apart="random zeros equal far farther hit",
        wrong=(Wrong("x=[[0.5]], y=[[1]]", "ValueError", "[mpf(1) / 7]"),),
    ),
    same(
        "multiclass_generalized_dice_loss(x, y)",
        "",
        "pixels real",
        "pixel classes",
        wrong=(Wrong("x=40 * eye(3)[[[1, 1, 1, 0]]], y=eye(3)[[[0, 0, 0, 1]]]", "7.4e-8", "mpf(2) / 3"),),
    ),
    same(
        "multiclass_generalized_dice_loss(x, y, smooth=0.1, ignore_background=True)", "", "pixels real", "pixel classes"
    ),
    # embeddings
    same(
        "ntxent(x, y)",
        "the mean over positive pairs, in both",
        "real",
        "groups",
        wrong=(
            Wrong("x=[[1, 0], [0, 1]], y=[0, 1]", "nan", "0"),
            Wrong(
                "x=[[1e-4, 0], [0, 1e-4], [-1e-4, 0], [0, -1e-4]], y=[0, 0, 1, 1]",
                "0.834",
                "log(2 + exp(-1 / mpf(0.07)))",
            ),
        ),
    ),
    same(
        "ntxent(x, y, temperature=0.02)",
        "",
        "real",
        "groups",
        wrong=(
            Wrong(
                "x=[[1, 0], [1, 0], [-1, 0]], y=[0, 0, 1]",
                "[[nan, nan], [nan, nan], [nan, nan]]",
                "[[0, 0], [0, 0], [0, 0]]",
                "gradient",
            ),
        ),
    ),
    same("triplet_margin_loss(x, y, z)", "", by="xyz"),
    same(
        "triplet_margin_loss(x, y, z, norm_degree=1, margin=0.5, eps=0.0)",
        "differences are not made positive there",
        by="xyz",
        apart="random zeros far farther hit",
        wrong=(Wrong("x=[0, 0], y=[1, 1], z=[2, 2]", "2.5", "0"),),
    ),
    same(
        "triplet_margin_loss(x, y, z, norm_degree=3, eps=0.0)",
        "",
        by="xyz",
        apart="random zeros far farther hit",
        wrong=(Wrong("x=[0, 0], y=[2, 2], z=[1, 1]", "nan", "1 + cbrt(2)"),),
    ),
    # labels
    same("smooth_labels(x, 0.1)", "", "distribution"),
    same("smooth_labels(x, 0.1, axis=0)", "", "distribution", by=""),  # its sum does not depend on logits
]

OPTAX = Peer(
    "optax",
    """\
Change the import: each name of `optax.losses` takes the same call here, except `convex_kl_divergence`, which optax
deprecates. The tests that optax ships for its losses pass with the import changed; `tests/peers/test_drop_in.py` names
the differences. The largest one: most losses of optax broadcast targets of another shape, and jaxloss raises, as (3,)
beside (3, 1) is a mistake. A single number as target fills the shape in both.

`w` has a weight for each class, `v` one for each entry, `keep` a `bool` for each row, `classes` one for each entry.
""",
    ROWS,
    """\
Predictions and targets have the same shape here, or the targets are a single number: what optax broadcasts without a
word, such as (3,) against (3, 1) in `huber_loss`, raises.

Nearly all losses take `where=`, `weights=` and `reduction=` here, all compute in float32 and return it, unless an input
is in float64; gradients come back in the dtype of the input.
""",
)
