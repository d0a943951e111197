"""The mean of the newest checkpoints of a run, as a model folder.

    MODEL_DIR/checkpoint_<step> ... --mean of parameters--> model folder

Weights averaged over the end of a run are about as good as those of a learning
rate that fell to zero (Izmailov et al. 2018), and cost the run nothing:

  python -m calm_jax.checkpoints.averaging --run=runs/docstrings --last=5 \\
    --like=docstrings --output_dir=runs/docstrings_model

`--like` names a model folder of the same network: vocabulary, task and lengths
are taken from it.
"""

import argparse
import os
import pathlib
from typing import Any

import jax
import numpy as np

from calm_jax import errors
from calm_jax.checkpoints import bundle, finding, load, shipped
from calm_jax.t5 import network


def mean_of_newest(
  model_dir: str | os.PathLike, config: network.T5Config, count: int
) -> tuple[Any, list[int]]:
  """The parameters' mean, and the steps that went into it.

  Args:
    model_dir: of a run.
    config: sizes of its network.
    count: how many checkpoints.

  Raises:
    DataError: there are fewer, or one is damaged.
  """
  model_dir = pathlib.Path(model_dir).expanduser().absolute()
  there = finding.steps_in(model_dir) if model_dir.is_dir() else []
  if not 1 <= count <= len(there):
    raise errors.DataError(
      f'{model_dir} must hold the {count} checkpoints to be averaged, at least'
      f' one; it holds {len(there)}.'
    )
  steps = there[-count:]
  total = None
  for step in steps:
    found = load.load_model(model_dir / f'checkpoint_{step}', config).params
    # float64 sums: their order does not show in the result.
    found = jax.tree.map(np.float64, found)
    total = found if total is None else jax.tree.map(np.add, total, found)
  return jax.tree.map(lambda x: np.float32(x / count), total), steps


def main() -> None:
  """Reads checkpoints, writes a model folder."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--run', required=True)
  parser.add_argument('--last', type=int, default=5)
  parser.add_argument('--like', default='docstrings')
  parser.add_argument('--output_dir', required=True)
  parser.add_argument('--dtype', default='float16')
  args = parser.parse_args()
  like = bundle.load_bundle(shipped.resolve(args.like))
  params, steps = mean_of_newest(args.run, like.config, args.last)
  bundle.save_bundle(
    args.output_dir, params, like.config, like.info, like.vocabulary_path,
    dtype=args.dtype,
  )  # fmt: skip
  print(f'Mean of steps {steps}: {args.output_dir}')


if __name__ == '__main__':
  main()
