"""Sample outputs of a report, chosen by effort, never by quality.

Part of `evaluate`. Deterministic, so that the same dump gives the same page.
"""

from collections.abc import Callable

import numpy as np

from calm_jax import errors
from calm_jax.records import contracts, dump_arrays


def choose(
  data: contracts.Dump,
  column: int,
  pieces: Callable[[np.ndarray], list[str]],
  num_samples: int,
) -> tuple[contracts.Sample, ...]:
  """Returns examples spread evenly over the ranking by mean layers.

  Args:
    data: N examples.
    column: of the calibrated threshold in the grid.
    pieces: [n] token ids to n pieces.
    num_samples: K; all examples if there are no more.

  Returns:
    The middle example of each of K equal parts of the ranking, fewest layers
    first.
  """
  layers, tokens = dump_arrays.layers_and_tokens(
    data.num_layers_used[:, column]
  )
  mean_layers = layers / np.maximum(tokens, 1)
  # By id where the means are equal: the order of a dump's rows is no property
  # of the examples.
  ranking = np.lexsort((data.example_ids, mean_layers))
  count = min(num_samples, len(ranking))
  places = (np.arange(count) + 0.5) / max(count, 1) * len(ranking)
  return tuple(
    _sample(data, row, column, pieces) for row in ranking[places.astype(int)]
  )


def _sample(
  data: contracts.Dump,
  row: int,
  column: int,
  pieces: Callable[[np.ndarray], list[str]],
) -> contracts.Sample:
  layers = data.num_layers_used[row, column]
  ids = data.tokens[row, column][layers > 0]
  spelled = [str(piece) for piece in pieces(ids)]
  if len(spelled) != len(ids):
    raise errors.DataError(
      f'`pieces` must give one piece for each of the {len(ids)} tokens of'
      f' example {data.example_ids[row]}, got {len(spelled)}.'
    )
  return contracts.Sample(
    example_id=str(data.example_ids[row]),
    source=str(data.sources[row]),
    reference=str(data.references[row]),
    pieces=tuple(spelled),
    num_layers_used=tuple(layers[layers > 0].tolist()),
    full_prediction=str(data.predictions[row, 0]),
  )
