"""The tables of docs/trainers.md: each loss after pre-training against its formula, and against Liger itself.

Liger is installed without what it depends on, `pip install --no-deps liger-kernel==0.8.5`: its losses are static
methods of torch alone.
"""

import importlib.metadata
import pathlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "trainers.md").read_text()
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def page():
    """The names that the page has made."""
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
            exec(block, names)
    return names


@pytest.fixture(autouse=True)
def as_a_user_runs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def rows(section):
    """The cells of the tables of a section."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def code(cell):
    return re.match(r"`(.*?)`", cell)[1]


POLICY = {name: cells for name, cells in rows("Policy losses").items() if len(cells) == 2 and name != "name"}
SEQUENCES = re.findall(r"^```python\n(stop = .*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]


def policy_loss(page, name, **arrays):
    """The loss of a row, of the arrays of the page or others."""
    names = {**page, **arrays}
    exec(SEQUENCES, names)
    losses, loss = POLICY[name]
    names["losses"] = eval(code(losses), names)
    return eval(code(loss), names)


def value_and_gradient(page, name, log_probs):
    return jax.value_and_grad(lambda x: policy_loss(page, name, log_probs=x))(log_probs)


@pytest.mark.parametrize("name", POLICY)
def test_padding_has_no_gradient(page, name):
    """Whatever it holds, such as an old log-probability of -200."""
    mask, old, log_probs = page["mask"], page["old"], page["log_probs"]
    value, gradient = value_and_gradient(page, name, log_probs)
    assert np.isfinite(value)
    np.testing.assert_array_equal(jnp.where(mask, 0, gradient), 0)
    padded = {**page, "old": jnp.where(mask, old, -200.0)}
    found, of_padded = value_and_gradient(padded, name, jnp.where(mask, log_probs, 0.0))
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(of_padded, gradient, rtol=1e-5, atol=1e-7)


# Their formulas, in NumPy with 64 bits.


def of_tokens(a):
    return SimpleNamespace(**{k: np.asarray(a[k], np.float64) for k in ("log_probs", "old", "advantages", "mask")})


def clipped(ratio, advantages, low=0.2, high=0.2):
    return -np.minimum(ratio * advantages, np.clip(ratio, 1 - low, 1 + high) * advantages)


def token_mean(x, mask):
    return (x * mask).sum() / mask.sum()


def sequence_mean(x, mask):
    return ((x * mask).sum(-1) / np.maximum(mask.sum(-1), 1)).mean()


def geo_mean(t):
    d, sign = (t.log_probs - t.old) * t.mask, np.sign(t.advantages)
    bounded = sign * np.minimum(sign * d, sign * np.clip(d, -0.4, 0.4)) * t.mask
    return (-t.advantages[:, 0] * np.exp(bounded.sum(-1) / np.maximum(t.mask.sum(-1), 1))).mean()


def mean_ratio(t):
    d = (t.log_probs - t.old) * t.mask
    return np.exp(d.sum(-1, keepdims=True) / np.maximum(t.mask.sum(-1, keepdims=True), 1))


FORMULAS = {
    "`bnpo`": lambda t: token_mean(clipped(np.exp(t.log_probs - t.old), t.advantages), t.mask),
    "`grpo`": lambda t: sequence_mean(clipped(np.exp(t.log_probs - t.old), t.advantages), t.mask),
    "`cispo` (NeMo": lambda t: token_mean(
        -np.clip(np.exp(t.log_probs - t.old), 0.8, 1.3) * t.advantages * t.log_probs, t.mask
    ),
    "`gpg`": lambda t: token_mean(-t.advantages * t.log_probs, t.mask),
    "`gspo`": lambda t: sequence_mean(clipped(mean_ratio(t), t.advantages), t.mask),
    "`geo_mean`": geo_mean,
}


@pytest.mark.parametrize("start", FORMULAS)
def test_policy_losses_are_their_formulas(page, start):
    (name,) = (name for name in POLICY if name.startswith(start))
    np.testing.assert_allclose(policy_loss(page, name), FORMULAS[start](of_tokens(page)), rtol=2e-6)


def test_sequence_gradients_of_tokens(page):
    """GSPO of tokens: the value of the sequence, and a gradient by each token that is that of its sequence."""
    (token,) = (name for name in POLICY if name.startswith("`gspo`"))
    (sequence,) = (name for name in POLICY if name.startswith("sequence level (TRL, Liger) with `grpo`"))
    for a, b in zip(*(value_and_gradient(page, name, page["log_probs"]) for name in (token, sequence)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_losses_of_rlax(page, rng):
    ratios, advantages, w = (jnp.asarray(rng.normal(size=9) ** 2 + 0.1, np.float32) for _ in range(3))
    advantages -= 1
    logits, actions = jnp.asarray(rng.normal(size=(9, 4)), np.float32), jnp.asarray(rng.integers(4, size=9))
    names = {**page, "ratios": ratios, "advantages": advantages, "w": w, "logits": logits, "actions": actions}
    names |= {"epsilon": 0.2, "log_probs": jaxloss.log_probs}
    r, a, weights = (np.asarray(x, np.float64) for x in (ratios, advantages, w))
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    expected = {
        "`clipped_surrogate": clipped(r, a).mean(),
        "`policy_gradient": -(weights * a * log_p[np.arange(9), actions]).mean(),
        "`entropy": (weights * (np.exp(log_p) * log_p).sum(1)).mean(),
    }
    for start, truth in expected.items():
        (cell,) = (cells[0] for name, cells in rows("Policy losses").items() if name.startswith(start))
        np.testing.assert_allclose(eval(code(cell), names), truth, rtol=1e-5)


def test_advantages(page):
    rewards = np.asarray(page["rewards"], np.float64)
    others = (rewards.sum(-1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    np.testing.assert_allclose(page["rloo"], rewards - others, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(page["grpo"].mean(-1), 0, atol=1e-6)


def softplus(x):
    return np.logaddexp(0, x)


@pytest.fixture
def pairs(rng):
    """Answers, with rewards and means as others name them, and their formulas of the names of the table."""
    log_probs = "chosen", "rejected", "reference_chosen", "reference_rejected"
    drawn = (*log_probs, "chosen_rewards", "rejected_rewards")
    arrays = {name: jnp.asarray(rng.normal(size=6) - 3, np.float32) for name in drawn}
    arrays |= {"chosen_means": arrays["chosen"] / 4, "rejected_means": arrays["rejected"] / 4}
    arrays |= {"chosen_lengths": jnp.arange(3.0, 9), "rejected_lengths": jnp.arange(8.0, 2, -1), "wpo": jnp.ones(6) / 2}
    arrays |= {"log_ratios": arrays["chosen"] + 3, "desirable": jnp.arange(6) % 2 == 0, "relevances": jnp.arange(6)}
    numbers = {"beta": 0.4, "epsilon": 0.2, "gamma": 0.5, "alpha": 0.5, "margin": 0.3, "kl": 0.2, "delta": 0.1}
    return arrays | numbers


def of_answers(a):
    t = SimpleNamespace(**{k: np.asarray(v, np.float64) for k, v in a.items()})
    t.c, t.j = t.chosen - t.reference_chosen, t.rejected - t.reference_rejected
    return t


def logits_of(t, transform):
    return softplus(-t.beta * (transform(t.c) - transform(t.j)))


def log_odds(x):
    return x - np.log1p(-np.exp(x))


PREFERENCES = {
    "`ipo` (the paper": lambda t: (t.c - t.j - 1 / (2 * t.beta)) ** 2,
    "`ipo` (TRL)": lambda t: (t.c / t.chosen_lengths - t.j / t.rejected_lengths - 1 / (2 * t.beta)) ** 2,
    "`sigmoid_norm`": lambda t: softplus(-t.beta * (t.c / t.chosen_lengths - t.j / t.rejected_lengths)),
    "`aot` (TRL)": lambda t: softplus(
        -t.beta * (np.sort(t.chosen - t.rejected) - np.sort(t.reference_chosen - t.reference_rejected))
    ),
    "`aot_unpaired`": lambda t: softplus(-t.beta * (np.sort(t.c) - np.sort(t.j))),
    '`f_divergence_type="forward_kl"`': lambda t: logits_of(t, lambda x: -np.exp(-x)),
    '`"js_divergence"`': lambda t: logits_of(t, lambda x: -softplus(-x)),
    '`"alpha_divergence"`': lambda t: logits_of(t, lambda x: np.exp(-0.5 * x) / -0.5),
    "cDPO": lambda t: 0.8 * softplus(-t.beta * (t.c - t.j)) + 0.2 * softplus(t.beta * (t.c - t.j)),
    "`orpo`": lambda t: t.beta * softplus(log_odds(t.rejected_means) - log_odds(t.chosen_means)),
    "a reward": lambda t: softplus(-(t.chosen_rewards - t.rejected_rewards - t.margin)),
    "`kto`": lambda t: np.where(
        t.desirable,
        1 - 1 / (1 + np.exp(-t.beta * (t.log_ratios - t.kl))),
        1 - 1 / (1 + np.exp(t.beta * (t.log_ratios - t.kl))),
    ),
    "`bco`": lambda t: np.where(
        t.desirable, softplus(t.delta - t.beta * t.log_ratios), softplus(t.beta * t.log_ratios - t.delta)
    ),
    "rankings": lambda t: sum(
        np.log(np.exp(t.beta * t.log_ratios[: i + 1]).sum()) - t.beta * t.log_ratios[i] for i in range(6)
    ),
}


def preference(page, arrays, name):
    names = {**page, **arrays}
    names["c"], names["j"] = (names[k] - names[f"reference_{k}"] for k in ("chosen", "rejected"))
    return eval(code(rows("Preferences")[name][0]), names)


@pytest.mark.parametrize("start", PREFERENCES)
def test_preferences_are_their_formulas(page, pairs, start):
    (name,) = (name for name in rows("Preferences") if name.startswith(start))
    np.testing.assert_allclose(preference(page, pairs, name), PREFERENCES[start](of_answers(pairs)), rtol=2e-5)


def test_routers_are_their_formulas(page, rng):
    layers, batch, length, number, k = 3, 4, 6, 5, 2
    logits = jnp.asarray(rng.normal(size=(layers, batch, length, number)), np.float32)
    experts, mask = jax.lax.top_k(logits, k)[1], page["valid"]
    names = {**page, "router_logits": logits, "experts": experts, "k": k, "mask": mask}
    p, chosen = np.asarray(jax.nn.softmax(logits), np.float64), np.asarray(jax.nn.one_hot(experts, number).sum(-2))
    where = np.asarray(mask)

    def balance(p, chosen):
        """Of tokens [n, experts]: their share of tokens, which is not divided by k, and their probability."""
        return number * (chosen.mean(0) * p.mean(0)).sum()

    sigmoids = np.asarray(jax.nn.sigmoid(logits), np.float64)
    normalised = sigmoids / sigmoids.sum(-1, keepdims=True)
    expected = {
        "`load_balancing_loss_func`": balance(p[:, where].reshape(-1, number), chosen[:, where].reshape(-1, number)),
        "MaxText": np.mean([balance(p[0, i][where[i]], chosen[0, i][where[i]]) for i in range(batch)]),
        "Megatron": [balance(p[i][where], chosen[i][where]) / k for i in range(layers)],
        "DeepSeek": [
            [balance(normalised[i, j][where[j]], chosen[i, j][where[j]]) / k for j in range(batch)]
            for i in range(layers)
        ],
        "router z-loss": (np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) ** 2)[:, where].mean(),
    }
    table = rows("Routers")
    for start, truth in expected.items():
        (cell,) = (cells[0] for name, cells in table.items() if name.startswith(start))
        np.testing.assert_allclose(eval(code(cell), names), truth, rtol=1e-5)


# Liger itself.


@pytest.fixture(scope="module")
def liger():
    """Its losses of preferences by name, its policy loss, and torch."""
    pytest.importorskip("liger_kernel")
    assert importlib.metadata.version("liger-kernel") == "0.8.5"
    import torch
    from liger_kernel.chunked_loss import cpo_loss, dpo_loss, grpo_loss, jsd_loss, kto_loss, orpo_loss, simpo_loss

    modules = {"DPO": dpo_loss, "CPO": cpo_loss, "ORPO": orpo_loss, "SimPO": simpo_loss, "KTO": kto_loss}
    found = {k.lower(): getattr(m, f"LigerFusedLinear{k}Function").preference_loss_fn for k, m in modules.items()}
    found["jsd"] = jsd_loss.LigerFusedLinearJSDFunction.distillation_loss_fn
    return SimpleNamespace(**found, grpo=grpo_loss.LigerFusedLinearGRPOFunction.ppo_loss_fn, torch=torch)


def theirs(liger, function, *arrays):
    """The value, and the gradient by the first array."""
    tensors = [liger.torch.tensor(np.asarray(a)) for a in arrays]
    tensors[0].requires_grad_()
    loss = function(*tensors)
    loss = loss[0] if isinstance(loss, tuple) else loss
    loss.backward()
    return loss.item(), tensors[0].grad.numpy()


def compare(ours, expected):
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-4, atol=1e-6)


LIGER_POLICIES = {
    "`bnpo`, `dapo` (TRL, Liger), `vanilla` (verl)": {"loss_type": "dapo"},
    "`grpo` (TRL, Liger)": {"loss_type": "grpo"},
    "`dr_grpo` (TRL, Liger)": {"loss_type": "dr_grpo", "max_completion_length": 8},
    "`cispo` (TRL, Liger)": {"loss_type": "cispo", "epsilon_high": 0.3},
    "`sapo` (TRL, Liger)": {"loss_type": "sapo"},
    "`vespo` (TRL, Liger)": {"loss_type": "vespo"},
    "sequence level (TRL, Liger) with `grpo`": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "sequence level (TRL, Liger) with `bnpo`, `dapo`": {"loss_type": "dapo", "importance_sampling_level": "sequence"},
    "`luspo` (TRL, Liger)": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
}


@pytest.mark.parametrize("name", LIGER_POLICIES)
def test_policy_losses_are_those_of_liger(page, liger, name):
    arrays = page["log_probs"], page["mask"].astype(np.float32), page["advantages"][:, 0], page["old"]

    def loss(log_probs, mask, advantages, old):
        options = {"old_per_token_logps": old, "beta": 0.0, **LIGER_POLICIES[name]}
        return liger.grpo(log_probs, mask, advantages, mask, **options)

    compare(value_and_gradient(page, name, page["log_probs"]), theirs(liger, loss, *arrays))


def test_options_of_liger(page, liger):
    log_probs, old, reference, mask = (page[k] for k in ("log_probs", "old", "reference", "mask"))
    numbers = mask.astype(np.float32)
    options = {
        "delta": (
            {"delta": 1.25, "beta": 0.0},
            lambda x: jaxloss.ppo_clip_loss(x, old, page["advantages"], dual_clip=1.25, where=mask),
        ),
        "beta": (
            {"beta": 0.04},
            lambda x: (
                jaxloss.ppo_clip_loss(x, old, page["advantages"], where=mask)
                + 0.04 * jaxloss.kl_estimate(x, reference, where=mask)
            ),
        ),
        "use_bias_correction_kl": (
            {"beta": 0.04, "use_bias_correction_kl": True},
            lambda x: (
                jaxloss.ppo_clip_loss(x, old, page["advantages"], where=mask)
                + 0.04 * jaxloss.kl_estimate(x, reference, old, where=mask)
            ),
        ),
    }
    for theirs_of, ours in options.values():

        def loss(x, mask, a, old, reference, theirs_of=theirs_of):
            return liger.grpo(x, mask, a, mask, reference, old, loss_type="dapo", **theirs_of)

        found = jax.value_and_grad(lambda x, ours=ours: jaxloss.reduce(ours(x), where=mask))(log_probs)
        compare(found, theirs(liger, loss, log_probs, numbers, page["advantages"][:, 0], old, reference))


LIGER_PREFERENCES = (
    *("sigmoid", "hinge", "exo_pair", "nca_pair", "robust"),
    *("bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"),
)


@pytest.mark.parametrize("loss_type", LIGER_PREFERENCES)
def test_preferences_are_those_of_liger(page, pairs, liger, loss_type):
    name = next(name for name in rows("Preferences") if name.startswith(f"`{loss_type}`"))
    smoothed = {"label_smoothing": 0.2} if loss_type in ("robust", "exo_pair") else {}

    def loss(chosen, rejected, reference_chosen, reference_rejected):
        both = liger.torch.zeros(12)
        references = reference_chosen, reference_rejected
        return liger.dpo(chosen, rejected, both, *references, beta=0.4, loss_type=loss_type, **smoothed)

    arrays = [pairs[k] for k in ("chosen", "rejected", "reference_chosen", "reference_rejected")]
    ours = jax.value_and_grad(lambda x: preference(page, {**pairs, "chosen": x}, name).mean())(pairs["chosen"])
    compare(ours, theirs(liger, loss, *arrays))


@pytest.mark.parametrize("other", ["cpo", "simpo", "orpo", "kto"])
def test_other_preferences_are_those_of_liger(page, pairs, liger, other):
    name = next(name for name in rows("Preferences") if name.startswith(f"`{other}`"))
    both = liger.torch.zeros(12)
    first, call = {
        "cpo": ("chosen", lambda x, y: liger.cpo(x, y, both, beta=0.4)),
        "simpo": ("chosen_means", lambda x, y: liger.simpo(x, y, both, beta=0.4, gamma=0.5)),
        "orpo": ("chosen_means", lambda x, y: liger.orpo(x, y, both, beta=0.4)),
        "kto": ("log_ratios", lambda x, y: liger.kto(x, y, both[:6], beta=0.4, kl=0.2)),
    }[other]
    second = {"chosen": "rejected", "chosen_means": "rejected_means", "log_ratios": "desirable"}[first]
    ours = jax.value_and_grad(lambda x: preference(page, {**pairs, first: x}, name).mean())(pairs[first])
    compare(ours, theirs(liger, call, pairs[first], pairs[second]))


@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_distillation_is_that_of_liger(page, liger, rng, beta):
    student, teacher = (jnp.asarray(rng.normal(size=(5, 7)), np.float32) for _ in range(2))
    starts = {0: "forward KL", 0.3: "their `beta` between", 1: "reverse KL"}
    name = next(name for name in rows("Distillation") if name.startswith(starts[beta]))
    cell, names = code(rows("Distillation")[name][0]), {**page, "teacher": teacher, "beta": beta}
    ours = jax.value_and_grad(lambda x: eval(cell, {**names, "student": x}).sum())(student)
    compare(ours, theirs(liger, lambda x, y: liger.jsd(x, y, beta=beta), student, teacher))


def test_where_liger_is_wrong(liger):
    """The losses named on the page as such, so that it is seen when they are mended."""
    torch = liger.torch
    one, mask = np.ones(1, np.float32), np.array([[1.0, 0.0]], np.float32)

    def masked(x, old):
        return liger.grpo(x, torch.tensor(mask), torch.ones(1), torch.tensor(mask), None, old, beta=0.0)

    _, gradient = theirs(liger, masked, np.zeros((1, 2), np.float32), np.array([[0.0, -200.0]], np.float32))
    assert np.isnan(gradient[0, 1])
    value, gradient = theirs(liger, lambda x, y: liger.orpo(x, y, torch.zeros(2), beta=1.0), -1e-8 * one, -one)
    assert value == 0
    assert np.isnan(gradient[0])
    value, _ = theirs(
        liger, lambda x, y: liger.dpo(x, y, torch.zeros(2), beta=1.0, loss_type="discopop"), -100 * one, 0 * one
    )
    assert np.isnan(value)
