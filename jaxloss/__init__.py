"""Loss functions for JAX: accurate, memory-efficient, fast, and pure.

A loss takes predictions (or logits) and targets (or labels), and returns the loss of each example. All losses take
``where``, ``weights`` and ``reduction``; :func:`reduce` explains the three. A name of PyTorch, Keras or TensorFlow,
such as ``jaxloss.mse_loss``, raises an error that names ours.

Softmax cross entropy:
    softmax_cross_entropy, softmax_cross_entropy_with_integer_labels, softmax_cross_entropy_with_indexed_labels,
    safe_softmax_cross_entropy, softmax_focal_loss, softmax_focal_loss_with_integer_labels, poly_loss_cross_entropy,
    multiclass_sparsemax_loss, make_fenchel_young_loss, smooth_labels, token_metrics, TokenMetrics,
    log_probs, LogProbs

Binary and multi-label:
    sigmoid_binary_cross_entropy, sigmoid_focal_loss, sparsemax_loss, multilabel_hinge_loss

Fused linear layer and loss:
    linear_cross_entropy, linear_cross_entropy_with_metrics, linear_cross_entropy_with_soft_labels,
    linear_cross_entropy_with_indexed_labels, linear_sigmoid_cross_entropy, linear_log_probs,
    linear_kl_divergence, linear_kl_divergence_with_top_k_targets, linear_jensen_shannon_divergence,
    sampled_softmax_loss, nce_loss

Distillation and divergences:
    softmax_kl_divergence, softmax_kl_divergence_with_top_k_targets, softmax_jensen_shannon_divergence,
    softmax_total_variation_distance, kl_divergence, kl_divergence_with_log_targets, generalized_kl_divergence,
    jensen_shannon_divergence, total_variation_distance

Policies and preferences:
    ppo_clip_loss, cispo_loss, sapo_loss, policy_gradient_loss, clipped_value_loss, kl_estimate, dpo_loss, kto_loss,
    odds_ratio_loss

From probabilities:
    categorical_cross_entropy, categorical_cross_entropy_with_integer_labels, binary_cross_entropy, nll_loss,
    generalized_cross_entropy

Margins:
    hinge_loss, squared_hinge_loss, soft_margin_loss, perceptron_loss, multiclass_hinge_loss,
    weston_watkins_hinge_loss, multiclass_perceptron_loss, categorical_hinge_loss_with_zero_class

Regression:
    squared_error, l2_loss, sum_of_squares_error, absolute_error, huber_loss, smooth_l1_loss, charbonnier_loss,
    log_cosh, quantile_loss, absolute_percentage_error, squared_logarithmic_error

Likelihoods:
    gaussian_nll_loss, gaussian_nll_loss_with_log_variance, poisson_nll_loss, poisson_nll_loss_with_log_rates

Embeddings:
    clip_loss, siglip_loss, info_nce_loss, supervised_contrastive_loss, ntxent, cosine_similarity, cosine_distance,
    cosine_embedding_loss, hinge_embedding_loss, triplet_margin_loss

Metric learning, by the labels of a batch:
    contrastive_loss, batch_hard_triplet_loss, semi_hard_triplet_loss, circle_loss, multi_similarity_loss,
    lifted_structure_loss, nca_loss, tuplet_margin_loss, angular_loss, proxy_anchor_loss, angular_margin_loss

Self-supervision:
    barlow_twins_loss, vicreg_loss, koleo_loss

Segmentation:
    dice_loss, binary_dice_loss, multiclass_generalized_dice_loss, tversky_loss

Ranking:
    ranking_softmax_loss, plackett_luce_loss, margin_ranking_loss

Mixtures of experts:
    load_balancing_loss, router_z_loss

Sequences:
    ctc_loss, ctc_loss_with_forward_probs, ctc_greedy_decode, ctc_beam_decode, CTCDecoded, ctc_align, CTCAlignment,
    rnnt_loss, rnnt_loss_with_joint

Reduction:
    reduce, sum_and_weight, SumAndWeight

``from jaxloss import *`` would replace ``functools.reduce``, if you have imported it: ``import jaxloss`` instead.
"""

from typing import Never as _Never

from ._batch_distances import contrastive_loss as contrastive_loss
from ._batch_distances import lifted_structure_loss as lifted_structure_loss
from ._batch_distances import nca_loss as nca_loss
from ._batch_distances import semi_hard_triplet_loss as semi_hard_triplet_loss
from ._contrastive import ntxent as ntxent
from ._contrastive import supervised_contrastive_loss as supervised_contrastive_loss
from ._contrastive import tuplet_margin_loss as tuplet_margin_loss
from ._core.cross_entropy import TokenMetrics as TokenMetrics
from ._core.reduction import SumAndWeight as SumAndWeight
from ._core.reduction import reduce as reduce
from ._core.reduction import sum_and_weight as sum_and_weight
from ._cosine import cosine_distance as cosine_distance
from ._cosine import cosine_similarity as cosine_similarity
from ._ctc import ctc_loss as ctc_loss
from ._ctc import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from ._ctc_decoding import CTCAlignment as CTCAlignment
from ._ctc_decoding import CTCDecoded as CTCDecoded
from ._ctc_decoding import ctc_align as ctc_align
from ._ctc_decoding import ctc_beam_decode as ctc_beam_decode
from ._ctc_decoding import ctc_greedy_decode as ctc_greedy_decode
from ._dice import binary_dice_loss as binary_dice_loss
from ._dice import dice_loss as dice_loss
from ._dice import multiclass_generalized_dice_loss as multiclass_generalized_dice_loss
from ._distillation import softmax_jensen_shannon_divergence as softmax_jensen_shannon_divergence
from ._distillation import softmax_kl_divergence as softmax_kl_divergence
from ._distillation import softmax_kl_divergence_with_top_k_targets as softmax_kl_divergence_with_top_k_targets
from ._distillation import softmax_total_variation_distance as softmax_total_variation_distance
from ._divergence import generalized_kl_divergence as generalized_kl_divergence
from ._divergence import jensen_shannon_divergence as jensen_shannon_divergence
from ._divergence import kl_divergence as kl_divergence
from ._divergence import kl_divergence_with_log_targets as kl_divergence_with_log_targets
from ._divergence import total_variation_distance as total_variation_distance
from ._embedding import cosine_embedding_loss as cosine_embedding_loss
from ._embedding import hinge_embedding_loss as hinge_embedding_loss
from ._embedding import triplet_margin_loss as triplet_margin_loss
from ._kl_estimate import kl_estimate as kl_estimate
from ._likelihood import gaussian_nll_loss as gaussian_nll_loss
from ._likelihood import gaussian_nll_loss_with_log_variance as gaussian_nll_loss_with_log_variance
from ._likelihood import poisson_nll_loss as poisson_nll_loss
from ._likelihood import poisson_nll_loss_with_log_rates as poisson_nll_loss_with_log_rates
from ._linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from ._linear_cross_entropy import linear_cross_entropy_with_indexed_labels as linear_cross_entropy_with_indexed_labels
from ._linear_cross_entropy import linear_cross_entropy_with_metrics as linear_cross_entropy_with_metrics
from ._linear_cross_entropy import linear_cross_entropy_with_soft_labels as linear_cross_entropy_with_soft_labels
from ._linear_cross_entropy import linear_jensen_shannon_divergence as linear_jensen_shannon_divergence
from ._linear_cross_entropy import linear_kl_divergence as linear_kl_divergence
from ._linear_cross_entropy import linear_kl_divergence_with_top_k_targets as linear_kl_divergence_with_top_k_targets
from ._linear_cross_entropy import linear_log_probs as linear_log_probs
from ._linear_cross_entropy import linear_sigmoid_cross_entropy as linear_sigmoid_cross_entropy
from ._linear_cross_entropy import nce_loss as nce_loss
from ._linear_cross_entropy import sampled_softmax_loss as sampled_softmax_loss
from ._log_probs import LogProbs as LogProbs
from ._log_probs import log_probs as log_probs
from ._margin import hinge_loss as hinge_loss
from ._margin import perceptron_loss as perceptron_loss
from ._margin import soft_margin_loss as soft_margin_loss
from ._margin import squared_hinge_loss as squared_hinge_loss
from ._multiclass_margin import categorical_hinge_loss_with_zero_class as categorical_hinge_loss_with_zero_class
from ._multiclass_margin import multiclass_hinge_loss as multiclass_hinge_loss
from ._multiclass_margin import multiclass_perceptron_loss as multiclass_perceptron_loss
from ._multiclass_margin import multilabel_hinge_loss as multilabel_hinge_loss
from ._multiclass_margin import weston_watkins_hinge_loss as weston_watkins_hinge_loss
from ._neighbours import batch_hard_triplet_loss as batch_hard_triplet_loss
from ._neighbours import koleo_loss as koleo_loss
from ._pairs import clip_loss as clip_loss
from ._pairs import info_nce_loss as info_nce_loss
from ._pairs import siglip_loss as siglip_loss
from ._policy import cispo_loss as cispo_loss
from ._policy import clipped_value_loss as clipped_value_loss
from ._policy import policy_gradient_loss as policy_gradient_loss
from ._policy import ppo_clip_loss as ppo_clip_loss
from ._policy import sapo_loss as sapo_loss
from ._preference import dpo_loss as dpo_loss
from ._preference import kto_loss as kto_loss
from ._preference import odds_ratio_loss as odds_ratio_loss
from ._probability_cross_entropy import binary_cross_entropy as binary_cross_entropy
from ._probability_cross_entropy import categorical_cross_entropy as categorical_cross_entropy
from ._probability_cross_entropy import (
    categorical_cross_entropy_with_integer_labels as categorical_cross_entropy_with_integer_labels,
)
from ._probability_cross_entropy import generalized_cross_entropy as generalized_cross_entropy
from ._probability_cross_entropy import nll_loss as nll_loss
from ._proxies import angular_margin_loss as angular_margin_loss
from ._proxies import proxy_anchor_loss as proxy_anchor_loss
from ._ranking import margin_ranking_loss as margin_ranking_loss
from ._ranking import plackett_luce_loss as plackett_luce_loss
from ._ranking import ranking_softmax_loss as ranking_softmax_loss
from ._regression import absolute_error as absolute_error
from ._regression import absolute_percentage_error as absolute_percentage_error
from ._regression import l2_loss as l2_loss
from ._regression import quantile_loss as quantile_loss
from ._regression import squared_error as squared_error
from ._regression import squared_logarithmic_error as squared_logarithmic_error
from ._regression import sum_of_squares_error as sum_of_squares_error
from ._robust import charbonnier_loss as charbonnier_loss
from ._robust import huber_loss as huber_loss
from ._robust import log_cosh as log_cosh
from ._robust import smooth_l1_loss as smooth_l1_loss
from ._router import load_balancing_loss as load_balancing_loss
from ._router import router_z_loss as router_z_loss
from ._self_supervised import barlow_twins_loss as barlow_twins_loss
from ._self_supervised import vicreg_loss as vicreg_loss
from ._sigmoid_cross_entropy import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from ._sigmoid_focal import sigmoid_focal_loss as sigmoid_focal_loss
from ._similarities import angular_loss as angular_loss
from ._similarities import circle_loss as circle_loss
from ._similarities import multi_similarity_loss as multi_similarity_loss
from ._softmax_cross_entropy import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from ._softmax_cross_entropy import smooth_labels as smooth_labels
from ._softmax_cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from ._softmax_cross_entropy import (
    softmax_cross_entropy_with_indexed_labels as softmax_cross_entropy_with_indexed_labels,
)
from ._softmax_cross_entropy import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from ._softmax_cross_entropy import token_metrics as token_metrics
from ._softmax_focal import poly_loss_cross_entropy as poly_loss_cross_entropy
from ._softmax_focal import softmax_focal_loss as softmax_focal_loss
from ._softmax_focal import softmax_focal_loss_with_integer_labels as softmax_focal_loss_with_integer_labels
from ._sparsemax import make_fenchel_young_loss as make_fenchel_young_loss
from ._sparsemax import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from ._sparsemax import sparsemax_loss as sparsemax_loss
from ._transducer import rnnt_loss as rnnt_loss
from ._transducer import rnnt_loss_with_joint as rnnt_loss_with_joint
from ._tversky import tversky_loss as tversky_loss

__version__ = "0.1.0"

__all__ = [
    "absolute_error",
    "absolute_percentage_error",
    "barlow_twins_loss",
    "contrastive_loss",
    "lifted_structure_loss",
    "nca_loss",
    "semi_hard_triplet_loss",
    "batch_hard_triplet_loss",
    "koleo_loss",
    "angular_margin_loss",
    "proxy_anchor_loss",
    "angular_loss",
    "multi_similarity_loss",
    "tuplet_margin_loss",
    "binary_cross_entropy",
    "binary_dice_loss",
    "categorical_cross_entropy",
    "categorical_cross_entropy_with_integer_labels",
    "categorical_hinge_loss_with_zero_class",
    "charbonnier_loss",
    "circle_loss",
    "cispo_loss",
    "clip_loss",
    "clipped_value_loss",
    "cosine_distance",
    "cosine_embedding_loss",
    "cosine_similarity",
    "ctc_align",
    "ctc_beam_decode",
    "ctc_greedy_decode",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "CTCAlignment",
    "CTCDecoded",
    "dice_loss",
    "dpo_loss",
    "gaussian_nll_loss",
    "gaussian_nll_loss_with_log_variance",
    "generalized_cross_entropy",
    "generalized_kl_divergence",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "info_nce_loss",
    "jensen_shannon_divergence",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "kl_estimate",
    "kto_loss",
    "l2_loss",
    "linear_cross_entropy",
    "linear_cross_entropy_with_indexed_labels",
    "linear_cross_entropy_with_metrics",
    "linear_cross_entropy_with_soft_labels",
    "linear_jensen_shannon_divergence",
    "linear_kl_divergence",
    "linear_kl_divergence_with_top_k_targets",
    "linear_log_probs",
    "linear_sigmoid_cross_entropy",
    "load_balancing_loss",
    "log_cosh",
    "log_probs",
    "LogProbs",
    "make_fenchel_young_loss",
    "margin_ranking_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "multilabel_hinge_loss",
    "nce_loss",
    "nll_loss",
    "ntxent",
    "odds_ratio_loss",
    "perceptron_loss",
    "plackett_luce_loss",
    "poisson_nll_loss",
    "poisson_nll_loss_with_log_rates",
    "policy_gradient_loss",
    "poly_loss_cross_entropy",
    "ppo_clip_loss",
    "quantile_loss",
    "ranking_softmax_loss",
    "reduce",
    "rnnt_loss",
    "rnnt_loss_with_joint",
    "router_z_loss",
    "safe_softmax_cross_entropy",
    "sampled_softmax_loss",
    "sapo_loss",
    "siglip_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "smooth_labels",
    "soft_margin_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_indexed_labels",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "softmax_focal_loss_with_integer_labels",
    "softmax_jensen_shannon_divergence",
    "softmax_kl_divergence",
    "softmax_kl_divergence_with_top_k_targets",
    "softmax_total_variation_distance",
    "sparsemax_loss",
    "squared_error",
    "squared_hinge_loss",
    "squared_logarithmic_error",
    "sum_and_weight",
    "sum_of_squares_error",
    "SumAndWeight",
    "supervised_contrastive_loss",
    "token_metrics",
    "TokenMetrics",
    "total_variation_distance",
    "triplet_margin_loss",
    "tversky_loss",
    "vicreg_loss",
    "weston_watkins_hinge_loss",
]


def __getattr__(name: str) -> _Never:
    from ._other_names import explain

    raise AttributeError(explain(name, __all__))
