"""Properties of outputs besides the task's metric: exact matches, and ends.

Part of `evaluate`. A small model may run into a loop and repeat itself until
its output is cut off; such texts dominate means, so their share is told, and
the means without them.
"""

import numpy as np

from calm_jax.calibration import risks
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts, dump_arrays


def describe(
  data: contracts.Dump, column: int, losses: np.ndarray, scores: np.ndarray
) -> contracts.Outputs:
  """Describes the outputs of one threshold.

  Args:
    data: N examples; column 0 is the full model.
    column: of the threshold in the grid.
    losses: [N] of that threshold.
    scores: [N], the task's metric against the references.
  """
  exact = risks.score(
    text_metrics.exact_match,
    data.predictions[:, column : column + 1],
    data.references,
    data.example_ids,
  )
  ends = (data.tokens[:, [0, column]] == dump_arrays.EOS_ID).any(axis=2)
  both = ends.all(axis=1)
  return contracts.Outputs(
    exact_match=float(exact.mean()),
    endless=float(1.0 - ends[:, 1].mean()),
    num_ended=int(both.sum()),
    mean_metric_ended=float(scores[both].mean()) if both.any() else None,
    mean_loss_ended=float(losses[both].mean()) if both.any() else None,
  )
