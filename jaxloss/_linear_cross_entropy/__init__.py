"""Losses of hidden states and an output matrix, without the logits."""

from ._distillation import linear_jensen_shannon_divergence as linear_jensen_shannon_divergence
from ._distillation import linear_kl_divergence as linear_kl_divergence
from ._log_probs import linear_log_probs as linear_log_probs
from ._loss import linear_cross_entropy as linear_cross_entropy
from ._loss import linear_cross_entropy_with_metrics as linear_cross_entropy_with_metrics
from ._named import linear_cross_entropy_with_indexed_labels as linear_cross_entropy_with_indexed_labels
from ._named import linear_kl_divergence_with_top_k_targets as linear_kl_divergence_with_top_k_targets
from ._sampled import nce_loss as nce_loss
from ._sampled import sampled_softmax_loss as sampled_softmax_loss
from ._sigmoid import linear_sigmoid_cross_entropy as linear_sigmoid_cross_entropy
from ._soft_labels import linear_cross_entropy_with_soft_labels as linear_cross_entropy_with_soft_labels
