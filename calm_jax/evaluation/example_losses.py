"""The examples that lost most, for people who want to see what went wrong.

Part of `evaluate`. Unlike `samples`, these are chosen by their loss, and the
report says so.
"""

import numpy as np

from calm_jax.records import contracts, dump_arrays


def greatest(
  data: contracts.Dump,
  column: int,
  losses: np.ndarray,
  scores: np.ndarray,
  count: int,
) -> tuple[contracts.ExampleLoss, ...]:
  """Returns the examples with the greatest losses, greatest first.

  Args:
    data: N examples; column 0 is the full model.
    column: of the calibrated threshold in the grid.
    losses: [N] of that threshold.
    scores: [N], the task's metric against the references.
    count: at most so many.
  """
  # By id where losses are equal: the order of a dump's rows says nothing.
  ranking = np.lexsort((data.example_ids, -losses))
  layers, num_tokens = dump_arrays.layers_and_tokens(
    data.num_layers_used[:, column]
  )
  mean_layers = layers / np.maximum(num_tokens, 1)
  return tuple(
    contracts.ExampleLoss(
      example_id=str(data.example_ids[row]),
      loss=float(losses[row]),
      metric=float(scores[row]),
      mean_layers=float(mean_layers[row]),
      num_tokens=int(num_tokens[row]),
      source=str(data.sources[row]),
      reference=str(data.references[row]),
      prediction=str(data.predictions[row, column]),
      full_prediction=str(data.predictions[row, 0]),
    )
    for row in ranking[:count]
  )
