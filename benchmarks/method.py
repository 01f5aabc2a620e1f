"""How it is measured: a few lines for BENCHMARKS.md, and the page behind them."""

from .comparison import DISPATCH, EQUAL
from .linear import TOKENS
from .measure import SHORTEST

SHORT = f"""## How it is measured

- The program is value and gradient of the mean, by the predictions, or by hidden states and weight, under `jit`.
- Inputs are random and ready on the device. Shapes are rows × classes; without the logits tokens × features × classes;
  of sequences batch × frames × labels × classes.
- *plain* is the loss as people write it in `jax.numpy`. *scan* is a loop over chunks of tokens under
  `jax.checkpoint`. *torch* is eager. `torch.compile` compiles forward and backward.
- Each round calls all candidates in random order. The ratio is the median over 9 to 40 rounds.
- `≈`: no difference beyond noise. Our own loss runs twice in each round, and shows what noise is.
- Below {1e3 * DISPATCH:.0f} µs the time is that of the host, its *dispatch*. Such rows are left out here if the loss
  has others.
"""

PAGE = f"""# How the benchmarks are measured

[BENCHMARKS.md](../../BENCHMARKS.md) is the summary.

- **A case** is a loss, a shape (rows × classes; of a loss without the logits tokens × features × classes, of one of
  sequences batch × frames × labels × classes) and a dtype. The program is value and gradient, by the predictions, or by
  hidden states and weight, of the mean. Inputs are random and ready on the device, the same memory for JAX and PyTorch.
- **Candidates**: optax; Keras on JAX; PyTorch, eager, and compiled (`torch.compile`, forward and backward), with its
  default number of threads; on a GPU Liger; *plain*, the loss as people write it in `jax.numpy`, in float32 at least.
  An empty cell: it has no such loss.
- **Candidates without the logits**: *plain*, *optax*, *torch* and *torch.compile* have them, as the product
  `hidden @ weight`, plain in float32. *scan* is the loop over chunks of {TOKENS} tokens under `jax.checkpoint` that is
  pasted from trainer to trainer. *torch.chunked* is `F.linear_cross_entropy` with the options that PyTorch chooses.
  tokamax is its `linear_softmax_cross_entropy_loss` (`mosaic_tpu` on TPUs, else `chunked_xla`, which counts the classes
  that fill up its last block). jax-cce is called as it is, and on a GPU so are Liger's fused loss and Apple's
  cut_cross_entropy. Each has the weight laid out as it asks for.
- **Columns**: *time*, *temporaries* and *error* are ours. *Over optax (its error)* is our time over that of optax.
- **Rounds**: compiled and run once before. Then each round calls every candidate, in random order, each often enough to
  take {1e3 * SHORTEST["cpu"]:.0f} ms (on accelerators {1e3 * SHORTEST["gpu"]:.0f} ms). A ratio is that of two times of
  one round. The tables show the median over 9 to 40 rounds; the folded ones the 20th and the 80th percentile, too, as
  do the bars of the charts.
- **Noise**: in each round our loss runs twice. `≈` says that the rounds cannot tell two candidates apart: their median
  ratio is within {EQUAL:.0%} of 1, or nearer to 1 than that of our loss to itself, or the middle 60 % of the ratios
  contains 1. **Bold**: we are faster beyond that. Neither: we are slower.
- **The two-pass time**, a floor, is that of the bytes of a loss that does nothing else: inputs read twice, for the
  value and for the gradient, and the gradient written. In each round a copy of the predictions is timed, and a program
  of one number. The floor is the latter plus what the former adds to it, in proportion to the bytes. (Operations over
  the rate of a large matrix product never take longer here.) What reads once, or only the label's entry of each row,
  falls below 1. At 256×10 everything is the time of a call.
- **The products**, the floor without the logits, are the three matrix products that no such loss does without, of the
  logits, of the gradient of the hidden states and of that of the weight, with sums in float32 and the logits rounded to
  the dtype of the inputs, timed in each round. What has fewer logits at a time may fall below 1: they stay in a cache.
- **Below {1e3 * DISPATCH:.0f} µs** the time is that of the host, which dispatches the call, and is marked so: such rows
  do not compare losses.
- **Products of float32**: on a GPU, JAX rounds their factors to TF32 by default, and PyTorch is set to do the same.
  Rows with the *highest precision* multiply in float32, JAX and PyTorch alike.
- **Not measured**: a candidate that is not installed, runs out of memory or fails is named below the tables of its
  device, with the reason. The others of the case are measured.
- **Eager calls** have no `jit`: a call computes the losses, or the gradient of their mean, on small arrays.
- **Errors** are against the plain form in float64: of the value, over the mean size of the losses; of a gradient, the
  largest error over its largest entry. The tables show the larger of the two. Inputs are random, so these show that
  nobody computes something else, and what half precision costs. Below 5e-7 they are a few roundings of float32 and no
  ranking. A gradient in bfloat16 is rounded to 2e-3. Keras clips probabilities and adds 1e-7. The tails of a loss are
  in `examples/stability.py` and the tests.
- **Temporaries** are bytes beside inputs and outputs: what XLA plans, and what PyTorch's allocator counts.
- **Of the copy** is the bandwidth, the floor's bytes over our time, as a share of that of a large copy of the same run.
- **Memory is kept**: the allocator does not return pages between calls, as on accelerators. With glibc's defaults a
  copy of 500 MB on a CPU took nine times as long, for its fresh pages, and some candidates met them and some did not.
"""
