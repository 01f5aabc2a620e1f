"""Words of other libraries, and what they are here: data, and the page. `python docs/glossary.py` writes the page."""

import pathlib

from jaxloss._other_names import NAMES

PAGE = pathlib.Path(__file__).parent / "glossary.md"

WORDS = {
    "`from_logits`": "two functions: `sigmoid_binary_cross_entropy` of logits, `binary_cross_entropy` of probabilities",
    "`ignore_index`": "`where=labels != -100`",
    "`mask`": "`where`, boolean; of numbers, `weights`",
    "`sample_weight`": '`weights`; a mean divides by their sum. Keras divides by their number: take `reduction="sum"`',
    "`weight` (PyTorch, a number for each class)": "`class_weights`; of binary losses `pos_weight`",
    "`class_weight` (Keras)": "`class_weights`",
    "`dim`": "`axis`, the classes or the features",
    '`reduction="batchmean"`': '`reduction="sum"`, divided by the number of examples',
    '`reduction="sum_over_batch_size"`': '`reduction="mean"`, which divides by the weights',
    "`label_smoothing` (t5x, Flax's lm1b)": "`label_smoothing=eps * V / (V - 1)`, see [recipes](recipes.md)",
    "`temperature`": "`temperature` in divergences and `ntxent`; elsewhere `logit_scale=1 / T`",
    "`from_probs`, `log_target`": "another function, such as `kl_divergence_with_log_targets`",
    "`blank`": "`blank_id`",
    "`input_lengths`, `target_lengths`": "`logit_lengths`, `label_lengths`",
    "`zero_infinity`": "`zero_infinity`",
    "`p` (triplets)": "`norm_degree`",
    "`p` (multiclass margins)": "`power`",
    "`beta` (smooth L1)": "`beta`; `huber_loss` has `delta`, and is beta times as large",
    "`beta` (generalised Jensen-Shannon)": "`beta`; at 0 and 1 the divergence is 0: the limits that TRL and Liger mean"
    " there are `softmax_kl_divergence`, forward and reverse",
    "`alpha`, `gamma` (focal)": "`alpha`, `gamma`",
    "`pos_weight`": "`pos_weight`",
    "`full` (Poisson, Gaussian)": "`full`",
    "`z_loss`": "`z_loss`; apart, `token_metrics(logits, labels).lse ** 2`",
    "`final_logit_softcapping`": "`soft_cap`",
    "`selective_log_softmax`": "`log_probs`, `linear_log_probs`",
    "`k1`, `k2`, `k3`, `low_var_kl`": "`kl_estimate`",
    "`label_smoothing` (DPO of TRL and Liger)": "`flip_probability`",
    "`cliprange`, `epsilon_low`, `epsilon_high`": "`clip_low`, `clip_high`",
    "`clip_ratio_c` (verl), `delta` (TRL)": "`dual_clip`",
    "label -1 or -100, ignored by default": "an out-of-range label is NaN: say what is ignored with `where`",
}

HEAD = """\
# Glossary

What other libraries call it, and what it is here. A name of the second table, such as `jaxloss.mse_loss`, raises an
error that names ours.

## Arguments and conventions

| there | here |
|---|---|
"""


def page() -> str:
    words = "".join(f"| {word} | {ours} |\n" for word, ours in WORDS.items())
    names = "".join(f"| `{name}` | `{ours}` |\n" for name, ours in sorted(NAMES.items()))
    return f"{HEAD}{words}\n## Names of losses\n\n| there | here |\n|---|---|\n{names}"


if __name__ == "__main__":
    PAGE.write_text(page())
