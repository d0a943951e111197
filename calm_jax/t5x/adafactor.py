"""T5X's Adafactor accumulators as the state of our Adafactor.

    state/step                        how many updates were made
    state/param_states/NAME/v_row     factored second moments [rows], [columns]
    state/param_states/NAME/v         or the whole second moment

Both factor the same arrays along the same axes (the two largest ones, where the
second largest has 128 entries) and decay by 1 - (step + 1)^-0.8, so fine-tuning
goes on as in T5X: after a million steps the accumulators are nearly frozen.
"""

from typing import Any

import jax
import numpy as np
import optax

from calm_jax import errors
from calm_jax.checkpoints import from_t5x, param_trees

_STEP = 'state/step'
_STATES = 'state/param_states/'
_ACCUMULATORS = ('v_row', 'v_col', 'v')


def read_step(checkpoint: from_t5x.Checkpoint) -> int:
  """How many updates were made.

  Raises:
    DataError: the checkpoint does not tell.
  """
  if checkpoint.shapes.get(_STEP) != ():
    raise errors.DataError(
      f'{checkpoint.directory} must hold the number of its step (state/step);'
      ' it has no optimizer state.'
    )
  return int(checkpoint.read([_STEP])[_STEP])


def read_opt_state(
  checkpoint: from_t5x.Checkpoint, template: Any, first_step: int = 0
) -> Any:
  """An optimizer state with T5X's accumulators.

  Args:
    checkpoint: from `from_t5x.open_checkpoint`.
    template: arrays or shapes of our optimizer's state for the network's
      parameters, without exit classifiers.
    first_step: what the counters of schedules start at. That of the
      accumulators' decay always goes on from the checkpoint's step.

  Returns:
    NumPy arrays in the structure of the template.

  Raises:
    ConfigError: the optimizer is not Adafactor, or keeps more than T5X's did.
    DataError: the checkpoint has no accumulators, others than the optimizer
      keeps, or is damaged.
  """
  step = read_step(checkpoint)
  leaves, structure = jax.tree_util.tree_flatten_with_path(
    template, is_leaf=_is_factored
  )
  if not any(_is_factored(leaf) for _, leaf in leaves):
    raise errors.ConfigError(
      "T5X's accumulators are Adafactor's, but the optimizer keeps none of"
      ' these; set OPTIMIZER = @optimizers.adafactor(), or import the'
      ' parameters alone.'
    )
  return jax.tree_util.tree_unflatten(
    structure,
    [
      _factored_state(checkpoint, leaf, step)
      if _is_factored(leaf)
      else _counter(path, leaf, first_step)
      for path, leaf in leaves
    ],
  )


def _is_factored(node: Any) -> bool:
  return isinstance(node, optax.FactoredState)


def _counter(path, leaf: Any, first_step: int) -> np.ndarray:
  if leaf.shape == () and np.issubdtype(leaf.dtype, np.integer):
    return np.asarray(first_step, leaf.dtype)
  raise errors.ConfigError(
    f'The optimizer keeps {jax.tree_util.keystr(path)}'
    f' {leaf.dtype}{list(leaf.shape)}, which a T5X checkpoint does not have;'
    ' use Adafactor without more (no momentum, as T5 does).'
  )


def _factored_state(
  checkpoint: from_t5x.Checkpoint, template: optax.FactoredState, step: int
) -> optax.FactoredState:
  expected = {
    f'{name}/{kind}': leaf
    for kind in _ACCUMULATORS
    for name, leaf in param_trees.flatten(getattr(template, kind)).items()
  }
  names = param_trees.of_network(
    {
      name.removeprefix(_STATES): shape
      for name, shape in checkpoint.shapes.items()
      if name.startswith(_STATES)
    }
  )
  _check_no_momentum(checkpoint, names)
  param_trees.check_same(
    {name: names[name] for name in names if not name.endswith('/m')},
    {name: leaf.shape for name, leaf in expected.items()},
    f'{checkpoint.directory} (accumulators; min_dim_size_to_factor of the'
    ' optimizer says which are factored)',
  )
  arrays = checkpoint.read(_STATES + name for name in expected)

  def tree(kind: str) -> Any:
    return param_trees.unflatten(
      {
        name.removesuffix(f'/{kind}'): arrays[_STATES + name].astype(leaf.dtype)
        for name, leaf in expected.items()
        if name.endswith(f'/{kind}')
      }
    )

  return optax.FactoredState(
    count=np.asarray(step, template.count.dtype),
    **{kind: tree(kind) for kind in _ACCUMULATORS},
  )


def _check_no_momentum(checkpoint, shapes) -> None:
  # A placeholder of one entry stands where there is no momentum.
  kept = [x for x in shapes if x.endswith('/m') and shapes[x] != (1,)]
  if kept:
    raise errors.ConfigError(
      f'{checkpoint.directory} was trained by Adafactor with momentum (beta1;'
      f' {kept[0]} and {len(kept) - 1} more), which is not read; import its'
      ' parameters alone.'
    )
