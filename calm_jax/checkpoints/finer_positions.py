"""A trained network with more relative position buckets, the same function.

    params, T5Config --> finer_positions --> params, T5Config with more buckets

Every distance keeps the bias that it had, as far as no new bucket spans two old
ones (the nearest distance decides there); distances that shared a bucket can
then be told apart by more training. `python -m
calm_jax.checkpoints.finer_positions` makes a model folder of another.
"""

import argparse
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.checkpoints import bundle, shipped
from calm_jax.t5 import masks, network


def finer_positions(
  params: Any, config: network.T5Config, num_buckets: int, max_distance: int
) -> tuple[Any, network.T5Config]:
  """Parameters and sizes with other buckets.

  Args:
    params: nested dict of the network's parameters.
    config: its sizes.
    num_buckets: new `relative_attention_num_buckets`.
    max_distance: new `relative_attention_max_distance`.

  Raises:
    ConfigError: fewer buckets than before, or more than the distances fill.
  """
  if num_buckets < config.relative_attention_num_buckets:
    raise errors.ConfigError(
      'The number of buckets must be at least'
      f' {config.relative_attention_num_buckets}, as before, got {num_buckets}.'
    )
  if max_distance <= num_buckets // 2:
    raise errors.ConfigError(
      f'The max_distance must be above half of the {num_buckets} buckets, got'
      f' {max_distance}.'
    )
  finer = config.replace(
    relative_attention_num_buckets=num_buckets,
    relative_attention_max_distance=max_distance,
  )
  # Beyond the greatest distance of both, nothing changes any more.
  reach = 1 + max(config.relative_attention_max_distance, max_distance)
  changed = dict(params)
  for stack in ('encoder', 'decoder'):
    table = params[stack]['relpos_bias']['rel_embedding']
    old, new = (
      _bucket_of_distance(x, stack == 'encoder', reach) for x in (config, finer)
    )
    wide = np.zeros((table.shape[0], num_buckets), np.float32)
    # The nearest distance of a bucket decides, so it is written last.
    order = np.argsort(-np.abs(np.arange(new.size) - new.size // 2))
    wide[:, new[order]] = np.asarray(table)[:, old[order]]
    changed[stack] = {
      **params[stack], 'relpos_bias': {'rel_embedding': wide},
    }  # fmt: skip
  return changed, finer


def _bucket_of_distance(
  config: network.T5Config, bidirectional: bool, reach: int
) -> np.ndarray:
  """[2 * reach + 1] buckets of keys `reach` earlier to `reach` later."""
  # One query in the middle of all keys.
  return masks.relative_position_buckets(
    reach + 1,
    2 * reach + 1,
    bidirectional=bidirectional,
    num_buckets=config.relative_attention_num_buckets,
    max_distance=config.relative_attention_max_distance,
  )[reach]


def main() -> None:
  """Reads a model folder, writes another."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='docstrings')
  parser.add_argument('--output_dir', required=True)
  parser.add_argument('--num_buckets', type=int, default=128)
  parser.add_argument('--max_distance', type=int, default=128)
  args = parser.parse_args()
  found = bundle.load_bundle(shipped.resolve(args.model))
  params = {x: found.params[x] for x in found.params if x != 'exit_classifiers'}
  params, config = finer_positions(
    params, found.config, args.num_buckets, args.max_distance
  )
  bundle.save_bundle(
    args.output_dir, params, config, found.info, found.vocabulary_path,
    dtype='float32',
  )  # fmt: skip


if __name__ == '__main__':
  main()
