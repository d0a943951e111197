"""Evaluates a calibrated threshold on the test split.

    test Manifest and Dump, CalibrationResult, Timings -> EvaluationResult

The consistency is measured as it was calibrated, on examples that the
calibration has not seen. NumPy and SciPy only.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.calibration import risks
from calm_jax.dump import reader
from calm_jax.evaluation import (
  bounds,
  checks,
  example_losses,
  operations,
  outputs,
  samples,
  timing,
)
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts

# At most so many examples carry their texts into the report.
NUM_EXAMPLE_LOSSES = 200

_DumpOrDirectory = str | os.PathLike | tuple[contracts.Manifest, contracts.Dump]


def evaluate(
  dump: _DumpOrDirectory,
  calibration: contracts.CalibrationResult,
  timings: timing.Timings,
  pieces: Callable[[np.ndarray], list[str]],
  baselines: Mapping[str, Sequence[str]] | None = None,
  calibration_dump: _DumpOrDirectory | None = None,
  num_samples: int = 8,
  num_losses: int = NUM_EXAMPLE_LOSSES,
  source_lengths: np.ndarray | None = None,
  own_metric: str | None = None,
) -> contracts.EvaluationResult:
  """Compares the calibrated with the full model.

  Args:
    dump: of the test split, a directory or what `reader.read_dump` gave. Its
      thresholds include 1.0 and the calibrated one.
    calibration: of the same model and configuration.
    timings: of both systems, measured in one run.
    pieces: [n] token ids to n pieces as the tokenizer spells them, `▁` before
      a word.
    baselines: name -> [N] texts of a trivial system, in the dump's order.
    calibration_dump: what was calibrated on, to prove by example ids that the
      test examples are others. Without it, the splits must have other names.
    num_samples: at most so many outputs are shown.
    num_losses: at most so many examples are listed with their loss.
    source_lengths: [N] tokens of the sources, in the dump's order; without them
      operations are not counted.
    own_metric: `package.module:function` that was calibrated with, if one was.
      A file's word is not enough to import it.

  Raises:
    DataError: the dump, the calibration and the timings do not belong
      together, or an example was used for the calibration.
    ConfigError: the metric or consistency is unknown, or the calibration is of
      another metric than `own_metric`.
  """
  manifest, data = opened = _opened(dump)
  seen = None if calibration_dump is None else _opened(calibration_dump)
  compare = checks.check_inputs(opened, calibration, seen, own_metric)
  checks.check_timings(timings, calibration)
  column = checks.column_of(manifest, calibration.threshold)
  # Cached, because losses, quality and baselines score the same pairs.
  compare = functools.cache(compare)
  objective = risks.get_consistency(calibration.consistency)(compare)
  ids = data.example_ids
  losses = objective.losses(data.predictions, data.references, ids)
  scores = risks.score(compare, data.predictions, data.references, ids)
  curve = _curve(manifest, data, losses, scores)
  counted = operations.count(manifest, data, column, source_lengths)

  def system(at, timed, flops):
    return contracts.SystemRow(
      **dataclasses.asdict(curve[at]),
      loss_upper_95=_loss_upper_bound(curve[at], losses[:, at], objective),
      ms_per_token=timed.ms_per_token,
      tokens_timed=timed.tokens_timed,
      outputs=outputs.describe(data, at, losses[:, at], scores[:, at]),
      flops=flops,
      speed=timed.speed,
    )

  return contracts.EvaluationResult(
    task=manifest.task,
    split=manifest.split,
    metric=calibration.metric,
    tolerance=calibration.tolerance,
    failure_prob=calibration.failure_prob,
    consistency=calibration.consistency,
    num_examples=data.num_examples,
    baselines=_baselines(compare, data, baselines or {}),
    full=system(0, timings.full, counted[0]),
    calibrated=system(column, timings.calibrated, counted[1]),
    speedup=timings.speedup,
    decoder_speedup=timings.decoder_speedup,
    **operations.reductions(*counted),
    batch_size=timings.batch_size,
    machine=timings.machine,
    curve=curve,
    samples=samples.choose(data, column, pieces, num_samples),
    example_losses=example_losses.greatest(
      data,
      column,
      losses[:, column],
      scores[:, column],
      num_losses if column else 0,  # The full model loses nothing.
    ),
    layer_histogram=layer_histogram(
      data.num_layers_used[:, column], manifest.model.num_decoder_layers
    ),
  )


def layer_histogram(
  num_layers_used: np.ndarray, num_layers: int
) -> tuple[int, ...]:
  """Counts tokens by the layers they used.

  Args:
    num_layers_used: any shape, 1..L, 0 where there is no token.
    num_layers: L.

  Returns:
    [L], tokens that used 1..L layers.
  """
  counts = np.bincount(num_layers_used.ravel(), minlength=num_layers + 1)
  return tuple(counts[1:].tolist())


def _opened(
  dump: _DumpOrDirectory,
) -> tuple[contracts.Manifest, contracts.Dump]:
  return dump if isinstance(dump, tuple) else reader.read_dump(dump)


def _curve(
  manifest: contracts.Manifest,
  data: contracts.Dump,
  losses: np.ndarray,
  scores: np.ndarray,
) -> tuple[contracts.CurvePoint, ...]:
  columns = (
    manifest.thresholds,
    losses.mean(axis=0).tolist(),
    scores.mean(axis=0).tolist(),
    data.mean_layers().tolist(),
  )
  return tuple(
    contracts.CurvePoint(*point) for point in zip(*columns, strict=True)
  )


def _loss_upper_bound(
  point: contracts.CurvePoint, losses: np.ndarray, objective: risks.Consistency
) -> float:
  # The full model's loss against itself is 0 by definition, not by sampling.
  if point.threshold == 1.0:
    return 0.0
  return bounds.mean_loss_upper_bound(
    losses, p_value=bounds.default_p_value(objective.loss_range)
  )


def _baselines(
  compare: text_metrics.Metric,
  data: contracts.Dump,
  baselines: Mapping[str, Sequence[str]],
) -> dict[str, float]:
  means = {}
  for name, texts in baselines.items():
    if len(texts) != data.num_examples:
      raise errors.DataError(
        f'The baseline {name!r} must have one text for each of the'
        f' {data.num_examples} examples, got {len(texts)}.'
      )
    column = np.array([str(text) for text in texts])[:, None]
    scores = risks.score(compare, column, data.references, data.example_ids)
    means[name] = float(scores.mean())
  return means
