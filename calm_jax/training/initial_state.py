"""The state that a run begins with.

newest checkpoint of MODEL_DIR, else INITIAL_CHECKPOINT_PATH, else the seed
  --> restore_or_create --placed TrainState--> training.loop
"""

import os

import jax
from flax import linen as nn

from calm_jax.checkpoints import load, orbax_io
from calm_jax.parallel import partitioning
from calm_jax.training import objectives, optimizers, state


def restore_or_create(
  store: orbax_io.CheckpointStore,
  objective: objectives.Objective,
  module: nn.Module,
  optimizer: optimizers.Optimizer,
  batch: state.Batch,
  seed: int,
  initial_checkpoint_path: str | os.PathLike | None,
  partitioner: partitioning.PjitPartitioner,
) -> state.TrainState:
  """The newest checkpoint's state, or that before the first step.

  Args:
    store: checkpoints of the run.
    objective: knows which parameters there are.
    module: `t5.network.Transformer`.
    optimizer: from `calm_jax.training.optimizers`.
    batch: any.
    seed: of parameters that are drawn.
    initial_checkpoint_path: where parameters come from if the run has no
      checkpoint; None draws them.
    partitioner: places the state.

  Raises:
    ConfigError: the objective needs parameters, and there are none.
    DataError: the checkpoint or the model at the path is damaged, not there, or
      of other sizes.
  """

  def create(rng, initial_params):
    return objective.create_state(module, optimizer, rng, batch, initial_params)

  rng = jax.random.key(seed)
  latest = store.latest_step()
  if latest is None:
    initial = None
    if initial_checkpoint_path is not None:
      initial = load.load_model(initial_checkpoint_path, module.config).params
    initial = partitioner.place(module, initial)
    return partitioner.create(module, create, rng, initial)
  network = jax.eval_shape(
    lambda key: state.create(module, optimizer, key, batch).params, rng
  )
  template = jax.eval_shape(create, rng, network)
  restored = store.restore(latest, template.as_dict())
  return state.TrainState(**partitioner.place(module, restored))
