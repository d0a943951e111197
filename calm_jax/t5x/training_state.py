"""A T5X checkpoint as one that our training resumes from.

    checkpoint_1000000 of T5X -> MODEL_DIR/checkpoint_0 -> calm train

Parameters, Adafactor's accumulators and the step that its decay goes on from
are T5X's. The number of the checkpoint is the caller's: our training counts
batches and schedules from it.
"""

import dataclasses
import os
import pathlib

import jax
import numpy as np

from calm_jax.checkpoints import from_t5x, orbax_io, param_trees, remote
from calm_jax.t5 import network
from calm_jax.t5x import adafactor
from calm_jax.training import optimizers


@dataclasses.dataclass(frozen=True)
class Converted:
  """What was written.

  Attributes:
    checkpoint: its directory.
    t5x_step: the step of T5X's checkpoint.
  """

  checkpoint: pathlib.Path
  t5x_step: int


def convert(
  path: str | os.PathLike,
  model_dir: str | os.PathLike,
  config: network.T5Config,
  optimizer: optimizers.Optimizer,
  first_step: int = 0,
) -> Converted:
  """Writes `model_dir/checkpoint_<first_step>`.

  Args:
    path: T5X's checkpoint, as for `from_t5x.open_checkpoint`.
    model_dir: of the run that will go on; created if it does not exist.
    config: the network.
    optimizer: an Adafactor.
    first_step: step that the run starts at.

  Raises:
    ConfigError: the optimizer is none that T5X's accumulators fit, or there is
      such a checkpoint already.
    DataError: T5X's checkpoint is missing, damaged, of another network or
      without accumulators; nothing is written.
    ResourceError: the directory cannot be written to.
  """
  checkpoint = from_t5x.open_checkpoint(remote.local(path, with_state=True))
  params = from_t5x.read_params(checkpoint, config)
  # As in `training`: exit classifiers say nothing about another network.
  params = param_trees.unflatten(
    param_trees.of_network(param_trees.flatten(params))
  )
  template = jax.eval_shape(optimizer.transformation.init, params)
  opt_state = adafactor.read_opt_state(checkpoint, template, first_step)
  store = orbax_io.CheckpointStore(model_dir)
  try:
    store.save(
      first_step,
      {'params': params, 'opt_state': opt_state, 'step': np.int32(first_step)},
    )
  finally:
    store.close()
  return Converted(
    store.directory / f'checkpoint_{first_step}',
    adafactor.read_step(checkpoint),
  )
