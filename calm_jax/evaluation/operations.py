"""Operations of the full and the calibrated model, from a dump alone.

Manifest, Dump --> flops --> two `Flops`

Part of `evaluate`. None where the network has no such sizes, or where the
cost of the measure, or of what skipped layers see, is not known.
"""

from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.evaluation import (
  flops,
  measure_costs,
  network_sizes,
  skipped_cost,
)
from calm_jax.records import contracts


def count(
  manifest: contracts.Manifest,
  data: contracts.Dump,
  column: int,
  source_lengths: np.ndarray | None,
) -> tuple[contracts.Flops | None, contracts.Flops | None]:
  """Counts both systems, each on its own outputs.

  Args:
    manifest: of the dump.
    data: N examples; column 0 is the full model.
    column: of the calibrated threshold in the grid.
    source_lengths: [N] tokens of the sources; None if they are not known.

  Raises:
    DataError: the lengths are not one for each example, or the manifest does
      not fit its dump.
  """
  model = manifest.model
  sizes = network_sizes.NetworkSizes.of(model.network)
  if sizes is None or source_lengths is None:
    return None, None
  if np.shape(source_lengths) != (data.num_examples,):
    raise errors.DataError(
      f'There must be a source length for each of the {data.num_examples}'
      f' examples, got shape {np.shape(source_lengths)}.'
    )
  used = data.num_layers_used
  full = flops.flops_per_token(sizes, used[:, 0], source_lengths)
  if manifest.thresholds[column] == 1.0:  # Nothing is measured there.
    return full, full
  cost = measure_costs.cost_of(model.measure)
  skipping = skipped_cost.cost_of(model.skipped_layers)
  if cost is None or skipping is None:
    return full, None
  early = flops.flops_per_token(
    sizes, used[:, column], source_lengths, cost, model.exit_layers, skipping
  )
  return full, early


def reductions(
  full: contracts.Flops | None, early: contracts.Flops | None
) -> dict[str, Any]:
  """Full over early, as fields of `EvaluationResult`; none if not counted."""
  if full is None or early is None:
    return {}
  rest = full.without_output_embedding / early.without_output_embedding
  return {
    'flops_reduction': full.total / early.total,
    'flops_reduction_without_output_embedding': rest,
  }
