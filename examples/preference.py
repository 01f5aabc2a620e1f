"""A small language model is taught a preference, by DPO and by GRPO: `python examples/preference.py`.

Trains a transformer of characters to complete one-line statements of Python's own standard library (SFT). What is
preferred then can be computed: a completion passes if `ast` can parse the statement, and something is called in it with
arguments. DPO learns from pairs of completions of which only one passes, GRPO from the rewards of completions that it
samples on the way, and both begin with the same policy. Prints how many completions of held-out prompts pass, and how
far the policies are from where they began, and draws how they get there. Takes about five minutes on two cores.
"""

import argparse
import ast
import functools
import pathlib
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

import jaxloss

LENGTH, PROMPT, END = 48, 8, ord("\n")  # characters of a statement with its END, and of a prompt
VOCABULARY, WIDTH = 128, 128  # ASCII
BATCH, PAIRS, GROUPS, GROUP = 64, 64, 32, 8  # statements, pairs or prompts of a step; completions of each prompt
BETA = 0.5  # of DPO; with 0.1 it goes further from the reference, and fewer of its completions parse
KL_WEIGHT, UPDATES = 0.04, 2  # of GRPO, which takes UPDATES steps on the same completions
HELD_OUT, PROBES, EVERY = 1024, 256, 10  # prompts, of which some are completed after EVERY so many optimizer steps
SKIPPED = {"site-packages", "test", "tests", "idle_test", "encodings"}
PICTURE = pathlib.Path("pictures/preference.png")
INK, ACCENT, COLD, MUTED = "#1b1f24", "#c2410c", "#0e7490", "#8b949e"


def count_arguments(statement: bytes) -> int:
    """How many arguments all of its calls have, or -1 if it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the text, such as a comparison `is 0`
            calls = [node for node in ast.walk(ast.parse(statement)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError):
        return -1
    return sum(len(call.args) + len(call.keywords) for call in calls)


def read_statements() -> np.ndarray:
    """[statements, 1 + LENGTH]: an END, from which the first character is predicted, the text, and END from there on.

    All different statements of one line that fit and are longer than a prompt, without those that are a string.
    """
    folder, found = pathlib.Path(sysconfig.get_paths()["stdlib"]), set()
    for path in folder.rglob("*.py"):
        if not SKIPPED & set(path.relative_to(folder).parts):
            text = path.read_bytes()
            lines = text.split(b"\n")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.stmt) and node.lineno == node.end_lineno:
                    found.add(lines[node.lineno - 1][node.col_offset : node.end_col_offset])
    fit = [each for each in found if PROMPT < len(each) < LENGTH and each.isascii() and each[:1] not in b"\"'"]
    kept = sorted(each for each in fit if count_arguments(each) >= 0)  # without "elif"
    rows = b"".join((b"\n" + each).ljust(1 + LENGTH, b"\n") for each in kept)
    return np.frombuffer(rows, np.uint8).reshape(len(kept), -1).astype(np.int32)


def judge(tokens: jax.Array) -> tuple[list[bytes], np.ndarray]:
    """The texts up to the first END, and their arguments, -1 for what has no END, too."""
    parts = [bytes(row[1:]).partition(b"\n") for row in np.asarray(tokens, np.uint8)]
    return [text for text, _, _ in parts], np.array([count_arguments(text) if end else -1 for text, end, _ in parts])


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, rngs=rngs)
        self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=mask, decode=mask is None)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Policy(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        init = nnx.initializers.normal(WIDTH**-0.5)
        self.embedding = nnx.Embed(VOCABULARY, WIDTH, embedding_init=init, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, embedding_init=init, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: jax.Array, at: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Hidden states, and the output matrix. With ``at``, tokens [batch, 1] stand there, behind those cached."""
        places = jnp.arange(tokens.shape[1]) if at is None else at[None]
        x = WIDTH**0.5 * (self.embedding(tokens) + self.position(places))
        mask = nnx.make_causal_mask(tokens[:1]) if at is None else None
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), self.embedding.embedding[...]


@nnx.jit
def sample(policy: Policy, prompts: jax.Array, key: jax.Array) -> jax.Array:
    """[prompts, 1 + LENGTH]: the prompts [prompts, 1 + PROMPT] and what the policy draws then, at temperature 1."""
    policy = nnx.clone(policy)  # the caller's gets no cache
    for block in policy.blocks:
        block.attention.init_cache((len(prompts), LENGTH, WIDTH))
    graph, cache, parameters = nnx.split(policy, nnx.Cache, ...)

    def append(carry: tuple[nnx.State, jax.Array], at: jax.Array) -> tuple[tuple[nnx.State, jax.Array], jax.Array]:
        cache, token = carry
        policy = nnx.merge(graph, cache, parameters)
        hidden, weight = policy(token[:, None], at)
        drawn = jax.random.categorical(jax.random.fold_in(key, at), hidden[:, 0] @ weight.T)
        token = jnp.where(at < PROMPT, prompts[:, jnp.minimum(at + 1, PROMPT)], drawn)
        return (nnx.state(policy, nnx.Cache), token), token

    _, tokens = jax.lax.scan(append, (cache, prompts[:, 0]), jnp.arange(LENGTH))
    return jnp.concatenate([prompts[:, :1], tokens.T], axis=1)


def completion_mask(tokens: jax.Array, prompt: int = PROMPT) -> jax.Array:
    """Of tokens[:, 1:]: those behind the prompt, until the first END, which is one of them."""
    ends = tokens[:, 1:] == END
    return (jnp.cumsum(ends, axis=-1) - ends == 0) & (jnp.arange(LENGTH) >= prompt)


def log_probs(policy: Policy, tokens: jax.Array) -> jax.Array:
    """[sequences, LENGTH], 0 outside the completions."""
    given = {"class_axis": 0, "where": completion_mask(tokens)}
    return jaxloss.linear_log_probs(*policy(tokens[:, :-1]), tokens[:, 1:], **given).log_prob


fixed_log_probs = nnx.jit(log_probs)


Loss = tuple[jax.Array, dict[str, jax.Array]]  # and what is reported of it


def sft_loss(policy: Policy, tokens: jax.Array) -> Loss:
    given = {"class_axis": 0, "where": completion_mask(tokens, prompt=0), "reduction": "mean"}
    loss = jaxloss.linear_cross_entropy(*policy(tokens[:, :-1]), tokens[:, 1:], **given)
    return loss, {"loss": loss}


def dpo_loss(policy: Policy, tokens: jax.Array, reference: jax.Array) -> Loss:
    """The first half of the tokens are the chosen ones, the second half the rejected ones."""
    change = log_probs(policy, tokens) - reference
    ratios = jaxloss.reduce(change, axis=-1, where=completion_mask(tokens), reduction="sum")
    chosen, rejected = jnp.split(ratios, 2)
    margins = BETA * (chosen - rejected)
    metrics = {"margin": margins.mean(), "accuracy": jnp.heaviside(margins, 0.5).mean()}
    return jaxloss.dpo_loss(chosen, rejected, beta=BETA, reduction="mean"), metrics


def grpo_loss(policy: Policy, tokens: jax.Array, old: jax.Array, reference: jax.Array, rewards: jax.Array) -> Loss:
    """Rewards [prompts, completions], for tokens [prompts * completions, 1 + LENGTH]."""
    spread = rewards.std(-1, keepdims=True)  # 0 where all of a prompt's are alike
    advantages = (rewards - rewards.mean(-1, keepdims=True)) / jnp.where(spread > 0, spread, 1)
    new, given = log_probs(policy, tokens), {"where": completion_mask(tokens), "reduction": "mean"}
    loss = jaxloss.ppo_clip_loss(new, old, advantages.reshape(-1, 1), clip_high=0.28, **given)
    loss += KL_WEIGHT * jaxloss.kl_estimate(new, reference, estimator="k3+", **given)
    return loss, {"reward": rewards.mean()}


STAGES = {"SFT": (sft_loss, 4e-3), "DPO": (dpo_loss, 2.5e-4), "GRPO": (grpo_loss, 4e-4)}  # and learning rates


@nnx.jit(static_argnums=0)
def step(loss: Callable, policy: Policy, optimizer: nnx.Optimizer, *batch: jax.Array) -> dict:
    (_, metrics), gradient = nnx.value_and_grad(loss, has_aux=True)(policy, *batch)
    optimizer.update(policy, gradient)
    return metrics


class Measured(NamedTuple):
    texts: list[bytes]  # a completion of each prompt, with the prompt
    arguments: np.ndarray  # of each, -1 if it is no Python
    passed: float  # share of them
    kl: float  # from the reference, nats per token


def measure(policy: Policy, reference: Policy, prompts: np.ndarray) -> Measured:
    tokens = sample(policy, prompts, jax.random.key(1))
    both = (fixed_log_probs(each, tokens) for each in (policy, reference))
    kl = jaxloss.kl_estimate(*both, where=completion_mask(tokens), reduction="mean")
    texts, arguments = judge(tokens)
    return Measured(texts, arguments, float((arguments > 0).mean()), float(kl))


class Trained(NamedTuple):
    metrics: dict[str, np.ndarray]  # of each optimizer step
    probes: dict[int, Measured]  # after so many steps


def train(name: str, policy: Policy, batches: Iterator, steps: int, probe: Callable = lambda policy: None) -> Trained:
    """Trains the policy in place."""
    loss, rate = STAGES[name]
    schedule = optax.warmup_cosine_decay_schedule(0, rate, steps // 10, steps)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    optimizer, history, probes = nnx.Optimizer(policy, chain, wrt=nnx.Param), [], {}
    with tqdm(range(steps), unit="step", desc=name) as progress:
        for i in progress:
            if i % EVERY == 0:
                probes[i] = probe(policy)
            history.append(jax.device_get(step(loss, policy, optimizer, *next(batches))))
            progress.set_postfix({key: f"{value:.3f}" for key, value in history[-1].items()})
    metrics = {key: np.array([each[key] for each in history]) for key in history[0]}
    return Trained(metrics, {**probes, steps: probe(policy)})


def draw_pairs(policy: Policy, prompts: np.ndarray) -> Iterator[tuple]:
    """Pairs of completions of a prompt of which one passes, the chosen one. Each is used once."""
    rng, waiting = np.random.default_rng(1), []
    while True:
        while len(waiting) < PAIRS:
            asked = prompts[rng.integers(len(prompts), size=PROBES)].repeat(2, axis=0)
            tokens = np.asarray(sample(policy, asked, jax.random.key(rng.integers(2**31))))
            passed = judge(tokens)[1].reshape(-1, 2) > 0
            order = np.argsort(~passed, axis=1, kind="stable")
            pairs = np.take_along_axis(tokens.reshape(PROBES, 2, -1), order[..., None], axis=1)
            waiting += [*pairs[passed[:, 0] != passed[:, 1]]]
        tokens = np.concatenate(np.stack(waiting[:PAIRS], axis=1))
        waiting = waiting[PAIRS:]
        yield tokens, fixed_log_probs(policy, tokens)


def draw_groups(policy: Policy, reference: Policy, prompts: np.ndarray) -> Iterator[tuple]:
    """Completions by the policy as it is then, and their rewards."""
    rng = np.random.default_rng(2)
    while True:
        asked = prompts[rng.integers(len(prompts), size=GROUPS)].repeat(GROUP, axis=0)
        tokens = sample(policy, asked, jax.random.key(rng.integers(2**31)))
        rewards = (judge(tokens)[1] > 0).reshape(GROUPS, GROUP).astype(np.float32)
        batch = tokens, fixed_log_probs(policy, tokens), fixed_log_probs(reference, tokens), rewards
        yield from [batch] * UPDATES


def draw(path: pathlib.Path, dpo: Trained, grpo: Trained) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.2), layout="constrained")
    figure.get_layout_engine().set(hspace=0.1, wspace=0.08)
    panels = {
        "margin": (f"New pairs: reward margin, nats; mean of {EVERY} steps", "{:.2f}"),
        "passed": ("Held-out prompts: share of completions that pass", "{:.0%}"),
        "accuracy": (f"New pairs: share in the right order; mean of {EVERY} steps", "{:.0%}"),
        "kl": ("Held-out prompts: KL from the SFT policy, nats per token", "{:.2f}"),
    }
    for axis, (key, (title, form)) in zip(axes.flat, panels.items(), strict=True):
        for name, trained, color in (("DPO", dpo, COLD), ("GRPO", grpo, ACCENT)):
            if key in trained.metrics:
                axis.plot(trained.metrics[key], color=color, lw=0.8, alpha=0.4)
                width = min(EVERY, len(trained.metrics[key]))
                values = np.convolve(trained.metrics[key], np.ones(width) / width, "valid")
                axis.plot(at := width - 1 + np.arange(len(values)), values, color=color, lw=2)
            elif key in Measured._fields:
                at, values = [*trained.probes], [getattr(each, key) for each in trained.probes.values()]
                axis.plot(at, values, color=color, lw=2, marker="o", ms=3.5)
            else:
                continue
            said = f"{name} {form.format(values[-1])}"
            axis.annotate(said, (at[-1], values[-1]), (8, 0), textcoords="offset points", color=color, va="center")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("optimizer step")
        axis.tick_params(colors=MUTED)
        axis.spines[["top", "right"]].set_visible(False)
        if form.endswith("%}"):
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def main(sft_steps: int = 700, dpo_steps: int = 80, grpo_steps: int = 80, picture: pathlib.Path = PICTURE) -> dict:
    text = read_statements()
    prompts, which = np.unique(text[:, : 1 + PROMPT], axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(prompts))
    text = text[~np.isin(which, order[:HELD_OUT])]
    held_out, prompts = np.split(prompts[order], [HELD_OUT])
    print(f"{len(text):,} statements, which begin in {len(prompts):,} ways; {HELD_OUT:,} other prompts are held out")
    begin, rng, sft = time.perf_counter(), np.random.default_rng(0), Policy(nnx.Rngs(0))
    train("SFT", sft, ((text[rng.integers(len(text), size=BATCH)],) for _ in range(sft_steps)), sft_steps)
    policies = {"SFT": sft, "DPO": nnx.clone(sft), "GRPO": nnx.clone(sft)}
    probe = functools.partial(measure, reference=sft, prompts=held_out[:PROBES])
    dpo = train("DPO", policies["DPO"], draw_pairs(sft, prompts), dpo_steps, probe)
    groups = draw_groups(policies["GRPO"], sft, prompts)
    grpo = train("GRPO", policies["GRPO"], groups, grpo_steps, probe)
    print(f"trained in {time.perf_counter() - begin:.0f} seconds")
    found = {name: measure(policy, sft, held_out) for name, policy in policies.items()}
    table = {
        "": found,
        "parse, and call with arguments": [f"{each.passed:.1%}" for each in found.values()],
        "parse": [f"{(each.arguments >= 0).mean():.1%}" for each in found.values()],
        "mean length, characters": [f"{np.mean([len(text) for text in each.texts]):.1f}" for each in found.values()],
        "KL from SFT, nats per token": [f"{each.kl:.3f}" for each in found.values()],
    }
    for row, cells in table.items():
        print(f"{row:32}" + "".join(f"{cell:>8}" for cell in cells))
    for i in range(6):
        print()
        for name, each in found.items():
            print(f"{name:6}{'+' if each.arguments[i] > 0 else '-'} {str(each.texts[i])[2:-1]}")
    draw(picture, dpo, grpo)
    print(f"the picture is {picture}")
    return {"DPO": dpo, "GRPO": grpo, "found": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sft-steps", type=int, default=700)
    parser.add_argument("--dpo-steps", type=int, default=80)
    parser.add_argument("--grpo-steps", type=int, default=80, help=f"{UPDATES} on the same completions")
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    main(**vars(parser.parse_args()))
