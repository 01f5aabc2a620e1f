"""Which loss for which problem: data, and the page that it prints. `python docs/which_loss.py` writes the page."""

import pathlib
from typing import NamedTuple

PAGE = pathlib.Path(__file__).parent / "which_loss.md"


class Row(NamedTuple):
    """What one has and wants, the targets, and what to call."""

    problem: str
    targets: str
    call: str


SECTIONS = {
    "One class of several": [
        Row("logits", "the index of the class", "softmax_cross_entropy_with_integer_labels(logits, labels)"),
        Row("logits", "a probability for each class", "softmax_cross_entropy(logits, labels)"),
        Row("the same, under optax's other name", "", "safe_softmax_cross_entropy"),
        Row(
            "logits",
            "several right classes, or a few with probabilities, by index",
            "softmax_cross_entropy_with_indexed_labels(logits, indices, labels)",
        ),
        Row("class imbalance, hard examples", "a probability for each class", "softmax_focal_loss(logits, labels)"),
        Row("class imbalance, hard examples", "the index", "softmax_focal_loss_with_integer_labels(logits, labels)"),
        Row("a steeper loss of sure rows", "a probability for each class", "poly_loss_cross_entropy(logits, labels)"),
        Row("sparse probabilities", "the index", "multiclass_sparsemax_loss(scores, labels)"),
        Row("a maximum of your own", "a probability for each class", "make_fenchel_young_loss(max_fun)"),
        Row("noisy labels", "the index", "generalized_cross_entropy(probabilities, labels, q=0.7)"),
        Row("probabilities", "the index", "categorical_cross_entropy_with_integer_labels(probabilities, labels)"),
        Row("probabilities", "a probability for each class", "categorical_cross_entropy(probabilities, labels)"),
        Row("log-probabilities", "the index", "nll_loss(log_probabilities, labels)"),
        Row("margins, Crammer and Singer", "the index", "multiclass_hinge_loss(scores, labels)"),
        Row("margins, Weston and Watkins", "the index", "weston_watkins_hinge_loss(scores, labels)"),
        Row("the multiclass perceptron", "the index", "multiclass_perceptron_loss(scores, labels)"),
        Row("Keras' hinge", "one-hot", "categorical_hinge_loss_with_zero_class(scores, labels)"),
        Row("smoothed labels, made by hand", "a probability for each class", "smooth_labels(labels, alpha)"),
        Row("accuracy, top-k accuracy, entropy", "the index", "token_metrics(logits, labels)"),
        Row("log-probabilities and entropy, to differentiate", "the index", "log_probs(logits, labels)"),
    ],
    "Binary and multi-label": [
        Row("logits", "0 and 1, or between", "sigmoid_binary_cross_entropy(logits, labels)"),
        Row("class imbalance, hard examples", "0 and 1", "sigmoid_focal_loss(logits, labels)"),
        Row("probabilities", "0 and 1, or between", "binary_cross_entropy(probabilities, labels)"),
        Row("a loss that is 0 from a margin on", "0 and 1", "sparsemax_loss(logits, labels)"),
        Row("margins", "-1 and 1", "hinge_loss(predictor_outputs, targets)"),
        Row("squared margins", "-1 and 1", "squared_hinge_loss(predictor_outputs, targets)"),
        Row("logistic loss of margins", "-1 and 1", "soft_margin_loss(predictor_outputs, targets)"),
        Row("the perceptron", "-1 and 1", "perceptron_loss(predictor_outputs, targets)"),
        Row("margins between the classes of an example", "0 and 1", "multilabel_hinge_loss(scores, labels)"),
    ],
    "A language model, a large vocabulary": [
        Row("hidden states and the output matrix", "the index", "linear_cross_entropy(hidden, weight, labels)"),
        Row("with accuracy and entropy", "the index", "linear_cross_entropy_with_metrics(hidden, weight, labels)"),
        Row(
            "hidden states",
            "a probability for each class",
            "linear_cross_entropy_with_soft_labels(hidden, weight, labels)",
        ),
        Row(
            "hidden states",
            "several right classes, or a few with probabilities, by index",
            "linear_cross_entropy_with_indexed_labels(hidden, weight, indices, labels)",
        ),
        Row("multi-label", "the indices that apply", "linear_sigmoid_cross_entropy(hidden, weight, labels)"),
        Row("log-probabilities of tokens, entropy", "the index", "linear_log_probs(hidden, weight, labels)"),
        Row("a sample of the classes", "the index", "sampled_softmax_loss(hidden, weight, labels, sampled)"),
        Row("noise-contrastive, negative sampling", "the index", "nce_loss(hidden, weight, labels, sampled)"),
    ],
    "Distil, compare distributions": [
        Row("logits", "a teacher's logits", "softmax_kl_divergence(logits, teacher_logits)"),
        Row(
            "logits",
            "a teacher's k largest log-probabilities",
            "softmax_kl_divergence_with_top_k_targets(logits, indices, log_probs)",
        ),
        Row("logits, symmetric", "a teacher's logits", "softmax_jensen_shannon_divergence(logits, teacher_logits)"),
        Row(
            "hidden states",
            "a teacher's hidden states",
            "linear_kl_divergence(hidden, weight, teacher_hidden, teacher_weight)",
        ),
        Row(
            "hidden states",
            "a teacher's k largest log-probabilities",
            "linear_kl_divergence_with_top_k_targets(hidden, weight, indices, log_probs)",
        ),
        Row(
            "hidden states, symmetric",
            "a teacher's hidden states",
            "linear_jensen_shannon_divergence(hidden, weight, teacher_hidden, teacher_weight)",
        ),
        Row(
            "logits, the largest difference of an event",
            "a teacher's logits",
            "softmax_total_variation_distance(logits, teacher_logits)",
        ),
        Row("log-probabilities", "probabilities", "kl_divergence(log_predictions, targets)"),
        Row("log-probabilities", "log-probabilities", "kl_divergence_with_log_targets(log_predictions, log_targets)"),
        Row("unnormalised", "unnormalised", "generalized_kl_divergence(log_predictions, targets)"),
        Row("symmetric", "log-probabilities", "jensen_shannon_divergence(log_predictions, log_targets)"),
        Row("the largest difference of an event", "probabilities", "total_variation_distance(predictions, targets)"),
    ],
    "A policy, preferences": [
        Row(
            "PPO, GRPO, DAPO, GSPO",
            "log-probabilities of the policy that sampled, advantages",
            "ppo_clip_loss(log_probs, old_log_probs, advantages)",
        ),
        Row("CISPO", "the same", "cispo_loss(log_probs, old_log_probs, advantages)"),
        Row("SAPO", "the same", "sapo_loss(log_probs, old_log_probs, advantages)"),
        Row("REINFORCE, GPG", "advantages", "policy_gradient_loss(log_probs, advantages)"),
        Row("a value, PPO's clipped", "returns", "clipped_value_loss(values, old_values, returns)"),
        Row(
            "a penalty for leaving a reference (k1, k2, k3)",
            "its log-probabilities",
            "kl_estimate(log_probs, reference_log_probs)",
        ),
        Row(
            "DPO, IPO, SLiC and others, SimPO, CPO, a reward model",
            "pairs, one of which is chosen",
            "dpo_loss(chosen_log_ratios, rejected_log_ratios)",
        ),
        Row("KTO", "answers, desirable or not", "kto_loss(log_ratios, labels)"),
        Row(
            "ORPO",
            "pairs, one of which is chosen",
            "odds_ratio_loss(chosen_log_probs, rejected_log_probs)",
        ),
    ],
    "A mixture of experts": [
        Row("the same load for each expert", "where tokens go", "load_balancing_loss(logits, experts)"),
        Row("small logits of the router", "", "router_z_loss(logits)"),
    ],
    "A number": [
        Row("its mean", "real", "squared_error(predictions, targets)"),
        Row("half of that", "real", "l2_loss(predictions, targets)"),
        Row("half of its sum over an axis", "real", "sum_of_squares_error(predictions, targets)"),
        Row("its median", "real", "absolute_error(predictions, targets)"),
        Row("a quantile (pinball), an interval", "real", "quantile_loss(predictions, targets, quantile=0.9)"),
        Row("robust to outliers", "real", "huber_loss(predictions, targets, delta=1.0)"),
        Row("PyTorch's scaling of that", "real", "smooth_l1_loss(predictions, targets, beta=1.0)"),
        Row("robust and smooth", "real", "log_cosh(predictions, targets)"),
        Row("robust and smooth, square root", "real", "charbonnier_loss(predictions, targets)"),
        Row("relative error", "not 0", "absolute_percentage_error(predictions, targets)"),
        Row("log-scale error", "above -1", "squared_logarithmic_error(predictions, targets)"),
        Row("a count, by its rate", "counts", "poisson_nll_loss(rates, targets)"),
        Row("a count, by the logarithm of its rate", "counts", "poisson_nll_loss_with_log_rates(log_rates, targets)"),
        Row("mean and variance", "real", "gaussian_nll_loss(predictions, targets, variance=variance)"),
        Row(
            "mean and the logarithm of the variance",
            "real",
            "gaussian_nll_loss_with_log_variance(predictions, targets, log_variance=log_variance)",
        ),
    ],
    "Embeddings": [
        Row("pairs of two towers (CLIP)", "", "clip_loss(queries, references, logit_scale=scale)"),
        Row("pairs of two towers (SigLIP)", "", "siglip_loss(queries, references, logit_scale=scale, bias=bias)"),
        Row(
            "queries, and references among which each has one (InfoNCE, N-pairs), hard negatives",
            "the index, or the same order",
            "info_nce_loss(queries, references, labels)",
        ),
        Row(
            "views of each example (SimCLR), examples of a class (SupCon)",
            "the example's label, or the class",
            "supervised_contrastive_loss(embeddings, labels)",
        ),
        Row(
            "the same for two views; for more, a sum over pairs (optax)",
            "the example's label",
            "ntxent(embeddings, labels)",
        ),
        Row("triplets", "a positive, a negative", "triplet_margin_loss(anchors, positives, negatives)"),
        Row("pairs of vectors", "-1 and 1", "cosine_embedding_loss(predictions, targets, labels)"),
        Row("distances of pairs", "-1 and 1", "hinge_embedding_loss(distances, targets)"),
        Row("directions", "vectors", "cosine_distance(predictions, targets)"),
        Row("the cosine itself", "vectors", "cosine_similarity(predictions, targets)"),
    ],
    "Metric learning, by the labels of a batch": [
        Row("near within a class, far from others", "the class", "contrastive_loss(embeddings, labels)"),
        Row("triplets, the hardest of each example", "the class", "batch_hard_triplet_loss(embeddings, labels)"),
        Row("triplets, semi-hard (FaceNet)", "the class", "semi_hard_triplet_loss(embeddings, labels)"),
        Row("cosines, each weighed by how far it is off (circle)", "the class", "circle_loss(embeddings, labels)"),
        Row(
            "cosines, hard ones weighed most (multi-similarity)",
            "the class",
            "multi_similarity_loss(embeddings, labels)",
        ),
        Row(
            "cosines of pairs, angles with a margin (tuplet margin)",
            "the class",
            "tuplet_margin_loss(embeddings, labels)",
        ),
        Row(
            "positive pairs beside the negatives of both (lifted structure)",
            "the class",
            "lifted_structure_loss(embeddings, labels)",
        ),
        Row("neighbours, prototypes, proxies of a class", "the class", "nca_loss(embeddings, labels)"),
        Row("pairs, the angle at a negative (angular loss)", "", "angular_loss(anchors, positives)"),
        Row("a learned proxy of each class", "the class", "proxy_anchor_loss(embeddings, labels, proxies)"),
        Row("many classes (ArcFace, CosFace)", "the class", "angular_margin_loss(embeddings, weight, labels)"),
    ],
    "Self-supervision": [
        Row("features that correlate with themselves alone", "the other view", "barlow_twins_loss(first, second)"),
        Row("near views, features with variance", "the other view", "vicreg_loss(first, second)"),
        Row("directions that fill the sphere", "", "koleo_loss(embeddings)"),
    ],
    "Segmentation": [
        Row("logits or probabilities, several classes", "one-hot", "dice_loss(predictions, targets)"),
        Row("one class", "0 and 1", "binary_dice_loss(predictions, targets)"),
        Row("classes of very different sizes", "one-hot", "multiclass_generalized_dice_loss(predictions, targets)"),
        Row("probabilities; Jaccard, other costs", "0 and 1", "tversky_loss(probabilities, targets)"),
    ],
    "Ranking": [
        Row("scores of a list", "relevance", "ranking_softmax_loss(logits, labels)"),
        Row("scores of a list, the likelihood of its order", "relevance", "plackett_luce_loss(logits, labels)"),
        Row("scores of pairs", "-1 and 1", "margin_ranking_loss(predictions, others, targets)"),
    ],
    "Sequences": [
        Row(
            "frames; speech, handwriting", "labels in order", "ctc_loss(logits, logit_paddings, labels, label_paddings)"
        ),
        Row("with what was emitted so far", "labels in order", "ctc_loss_with_forward_probs"),
        Row("read the best labels", "", "ctc_greedy_decode(logits)"),
        Row("read the best labels, by beam", "", "ctc_beam_decode(logits)"),
        Row("where the labels are", "labels in order", "ctc_align(logits, labels=labels)"),
        Row("a transducer (RNN-T)", "labels in order", "rnnt_loss(logits, labels=labels, blank_id=0)"),
        Row(
            "a transducer, without all of its logits",
            "labels in order",
            "rnnt_loss_with_joint(joint, encoded, predicted, labels, blank_id=0)",
        ),
    ],
    "Weigh, mask and average": [
        Row("losses of your own, metrics", "", "reduce(losses, where=where, weights=weights)"),
        Row(
            "to divide later, means of sequences and of packed ones",
            "",
            "sum_and_weight(losses, where=where, weights=weights)",
        ),
    ],
}

HEAD = """\
# Which loss?

Find the inputs and the targets you have. Losses take `where`, `weights` and `reduction`; those of a whole batch, such
as Barlow Twins, are one number, and take `where`. The name leads to the
formula, the options and an example. The losses of trainers after pre-training have [a page](after_pretraining.md), and
their names [a table](trainers.md#policy-losses).
"""


def page() -> str:
    text = HEAD
    for section, rows in SECTIONS.items():
        lines = [f"| {row.problem} | {row.targets} | `{row.call}` |" for row in rows]
        text += f"\n## {section}\n\n| you have, you want | targets | call |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
