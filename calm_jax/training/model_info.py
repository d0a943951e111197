"""T5X's model-info.txt: every parameter with its shape and placement."""

from typing import Any

from calm_jax.checkpoints import param_trees

FILE_NAME = 'model-info.txt'


def describe(params: Any, shardings: Any) -> str:
  """A line for each parameter, and their number.

  Args:
    params: a tree of arrays.
    shardings: the same tree of `NamedSharding`.
  """
  arrays, placed = map(param_trees.flatten, (params, shardings))
  lines = [
    f'Variable    {name:<72} size {array.size:<12,}'
    f' shape {str(tuple(array.shape)):<20}'
    f' partition spec {tuple(placed[name].spec)}'
    for name, array in arrays.items()
  ]
  total = sum(array.size for array in arrays.values())
  lines.append(f'Total number of parameters: {total:,}')
  return '\n'.join(lines) + '\n'
