"""What a training step keeps between its passes, and what it takes compiled.

  python benchmarks/train_memory.py
  python benchmarks/train_memory.py --batch_size=8 --inputs=256 --targets=64 \\
    --compile

Traced: bytes of the residuals of one microbatch, the parameters included, as
JAX hands them from the forward to the backward pass; no device is needed. With
--compile, also the temporary memory that XLA plans for the whole step on this
machine, which includes what the backward pass computes again.
"""

import argparse
import math

import jax
import jax.numpy as jnp

from calm_jax.config import gin_setup
from calm_jax.training import optimizers, state, step

GIN_FILE = 'gin/experiments/cnn_dm_small.gin'
PLANS = [('none', 1), ('minimal', 1), ('full', 1), ('full', 8), ('full', 16)]


def batch_of(rows: int, inputs: int, targets: int) -> dict:
  """Shapes of T5X's features."""
  shape = jax.ShapeDtypeStruct((rows, targets), jnp.int32)
  return {
    'encoder_input_tokens': jax.ShapeDtypeStruct((rows, inputs), jnp.int32),
    'decoder_input_tokens': shape,
    'decoder_target_tokens': shape,
  }


def residual_bytes(module, objective, train_state, batch) -> int:
  """Of one microbatch, the parameters included."""
  rows = {
    name: jax.ShapeDtypeStruct(
      (x.shape[0] // objective.num_microbatches, *x.shape[1:]), x.dtype
    )
    for name, x in batch.items()
  }

  def backward(params, rows):
    def loss_fn(params):
      key = jax.random.key(0)
      return step.compute_losses(module, objective, params, rows, key).loss

    return jax.vjp(loss_fn, params)[1]

  kept = jax.tree.leaves(jax.eval_shape(backward, train_state.params, rows))
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)


def temporary_bytes(module, optimizer, objective, train_state, batch) -> int:
  """Of the compiled step, besides its arguments and results."""
  train_step = step.make_train_step(module, optimizer, objective, seed=0)
  compiled = train_step.lower(train_state, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
  """Prints a line per plan."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--gin_file', default=GIN_FILE)
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--inputs', type=int, default=2048)
  parser.add_argument('--targets', type=int, default=512)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--compile', action='store_true')
  args = parser.parse_args()
  gin_setup.parse(
    [args.gin_file], [f"calm_jax.t5.network.T5Config.dtype = '{args.dtype}'"]
  )
  plain = gin_setup.macro('MODEL').module
  optimizer = optimizers.adafactor()
  batch = batch_of(args.batch_size, args.inputs, args.targets)
  example = {k: jnp.ones((1, 1), jnp.int32) for k in batch}
  train_state = jax.eval_shape(
    lambda key: state.create(plain, optimizer, key, example), jax.random.key(0)
  )
  for policy, num_microbatches in PLANS:
    module = plain.clone(remat_policy=policy)
    objective = step.LayerWeightedObjective(num_microbatches=num_microbatches)
    kept = residual_bytes(module, objective, train_state, batch)
    line = f'{policy:8} {num_microbatches:3} microbatches  {kept / 1e9:7.3f} GB'
    if args.compile:
      taken = temporary_bytes(module, optimizer, objective, train_state, batch)
      line += f' kept  {taken / 1e9:7.3f} GB temporary'
    print(line, flush=True)


if __name__ == '__main__':
  main()
