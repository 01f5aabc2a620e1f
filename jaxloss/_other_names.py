"""What other libraries call a loss, and what it is here. Nothing imports it but a look for a name that is not there."""

_IN_BATCH = "linear_cross_entropy(queries, keys, jnp.arange(len(keys)), class_axis=0)"

NAMES = {
    "bce": "sigmoid_binary_cross_entropy",
    "bce_loss": "sigmoid_binary_cross_entropy",
    "bce_with_logits": "sigmoid_binary_cross_entropy",
    "binary_cross_entropy_with_logits": "sigmoid_binary_cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "binary_focal_crossentropy": "sigmoid_focal_loss",
    "categorical_crossentropy": "categorical_cross_entropy",
    "categorical_focal_crossentropy": "softmax_focal_loss",
    "categorical_hinge": "categorical_hinge_loss_with_zero_class",
    "convex_kl_divergence": "generalized_kl_divergence",
    "clip_loss": _IN_BATCH,
    "cosine_embedding": "cosine_embedding_loss",
    "cosine_loss": "cosine_distance",
    "cross_entropy": "softmax_cross_entropy_with_integer_labels",
    "cross_entropy_loss": "softmax_cross_entropy_with_integer_labels",
    "ctc": "ctc_loss",
    "ctc_loss_with_forward_probabilities": "ctc_loss_with_forward_probs",
    "dice": "dice_loss",
    "focal_loss": "sigmoid_focal_loss",
    "fused_linear_cross_entropy": "linear_cross_entropy",
    "gaussian_nll": "gaussian_nll_loss",
    "hinge": "hinge_loss",
    "huber": "huber_loss",
    "info_nce": _IN_BATCH,
    "info_nce_loss": _IN_BATCH,
    "jaccard_loss": "tversky_loss",
    "js_divergence": "jensen_shannon_divergence",
    "kl_div": "kl_divergence",
    "kl_loss": "kl_divergence",
    "kldiv_loss": "kl_divergence",
    "l1_loss": "absolute_error",
    "log_loss": "binary_cross_entropy",
    "log_poisson_loss": "poisson_nll_loss_with_log_rates",
    "logcosh": "log_cosh",
    "mae": "absolute_error",
    "mae_loss": "absolute_error",
    "mape": "absolute_percentage_error",
    "mean_absolute_error": "absolute_error",
    "mean_absolute_percentage_error": "absolute_percentage_error",
    "mean_squared_error": "squared_error",
    "mean_squared_logarithmic_error": "squared_logarithmic_error",
    "mse": "squared_error",
    "mse_loss": "squared_error",
    "msle": "squared_logarithmic_error",
    "multi_margin_loss": "weston_watkins_hinge_loss",
    "multilabel_margin_loss": "multilabel_hinge_loss",
    "multilabel_soft_margin_loss": "sigmoid_binary_cross_entropy",
    "nt_xent": "ntxent",
    "ntxent_loss": "ntxent",
    "pinball_loss": "quantile_loss",
    "poisson": "poisson_nll_loss",
    "poly_loss": "poly_loss_cross_entropy",
    "rnn_transducer_loss": "rnnt_loss",
    "selective_log_softmax": "log_probs",
    "sigmoid_cross_entropy": "sigmoid_binary_cross_entropy",
    "sigmoid_cross_entropy_with_logits": "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy_with_logits": "softmax_cross_entropy",
    "sparse_categorical_crossentropy": "softmax_cross_entropy_with_integer_labels",
    "sparse_softmax_cross_entropy_with_logits": "softmax_cross_entropy_with_integer_labels",
    "squared_hinge": "squared_hinge_loss",
    "triplet_loss": "triplet_margin_loss",
    "tversky": "tversky_loss",
    "weighted_cross_entropy_with_logits": "sigmoid_binary_cross_entropy",
}


def explain(name: str, names: list[str]) -> str:
    """The sentence of an AttributeError. Names of classes, such as `MSELoss`, are looked up, too."""
    ours = {_plain(other): here for other, here in NAMES.items()} | {_plain(here): here for here in names}
    found = ours.get(_plain(name).removeprefix("liger"))
    return f"module 'jaxloss' has no attribute {name!r}" + ("." if found is None else f"; use `jaxloss.{found}`.")


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
