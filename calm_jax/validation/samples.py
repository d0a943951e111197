"""Many samples of one dump at once: the numbers that validation is made of.

    dump, objective -> ExampleTable [N, G] -> Samples (R of the N)

A sample is so many of each example, none or one of most, so its means are a
product of a matrix of counts with the table: a thousand splits cost one
multiplication.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from calm_jax import errors
from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  loss_ranges,
  p_values,
  risks,
)
from calm_jax.records import contracts, dump_arrays
from calm_jax.validation import naive

# Losses handed to a p-value at once: 32 MiB of them.
_CHUNK = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleTable:
  """What each example did at each threshold.

  Attributes:
    thresholds: [G], strictly descending, first 1 (the full model).
    losses: [N, G] in `loss_range`, 0 at threshold 1.
    scores: [N, G], the metric against the references.
    layers: [N, G], layers used by all tokens of the output together.
    tokens: [N, G], tokens of the output.
    loss_range: the numbers that a loss may be.

  Raises:
    DataError: the arrays have other shapes or losses than these.
  """

  thresholds: np.ndarray
  losses: np.ndarray
  scores: np.ndarray
  layers: np.ndarray
  tokens: np.ndarray
  loss_range: loss_ranges.LossRange = loss_ranges.UNIT

  def __post_init__(self):
    shape = self.losses.shape
    shapes = {
      name: getattr(self, name).shape for name in ('scores', 'layers', 'tokens')
    }
    if set(shapes.values()) != {shape} or shape[1:] != (len(self.thresholds),):
      raise errors.DataError(
        f'All arrays must be [examples, {len(self.thresholds)} thresholds], got'
        f' losses {shape} and {shapes}.'
      )
    object.__setattr__(self, 'losses', self.loss_range.checked(self.losses))

  @property
  def num_examples(self) -> int:
    return len(self.losses)

  def rows(self, chosen: np.ndarray) -> 'ExampleTable':
    """The table of some examples, by number or by a mask."""
    names = ('losses', 'scores', 'layers', 'tokens')
    return dataclasses.replace(
      self, **{name: getattr(self, name)[chosen] for name in names}
    )

  def means(self, members: np.ndarray | None = None) -> naive.Means:
    """Means over samples of the examples.

    Args:
      members: [R, N], how often each is in each sample; None for all of them.

    Returns:
      Means [R, G], or [G] over all. Layers are per token, not per example: the
      sum of the layers over the sum of the tokens.
    """
    if members is None:
      all_of_them = np.ones((1, self.num_examples))
      one = self.means(all_of_them)
      return naive.Means(
        one.thresholds, one.losses[0], one.scores[0], one.layers[0]
      )
    sizes = members.sum(axis=1, keepdims=True)
    tokens = np.maximum(members @ self.tokens, 1)
    return naive.Means(
      thresholds=self.thresholds,
      losses=members @ self.losses / sizes,
      scores=members @ self.scores / sizes,
      layers=members @ self.layers / tokens,
    )


def table_of_dump(
  manifest: contracts.Manifest,
  data: contracts.Dump,
  objective: risks.Consistency,
) -> ExampleTable:
  """The table of a dump whose texts were generated at each threshold.

  Args:
    manifest, data: the dump.
    objective: makes losses of its texts; its metric is the task's.

  Raises:
    DataError: the texts were not generated, or the metric failed.
  """
  if manifest.decode_mode != contracts.GENERATED:
    raise errors.DataError(
      f'A validation needs texts with decode_mode {contracts.GENERATED!r}, but'
      f' this dump has {manifest.decode_mode!r}; run `calm dump` for them.'
    )
  return table_of(manifest.thresholds, data, objective)


def table_of(
  thresholds: Sequence[float],
  data: contracts.Dump,
  objective: risks.Consistency,
) -> ExampleTable:
  """As `table_of_dump`, wherever texts and layers came from."""
  texts = (data.predictions, data.references, data.example_ids)
  layers, tokens = dump_arrays.layers_and_tokens(data.num_layers_used)
  return ExampleTable(
    thresholds=np.array(thresholds),
    losses=objective.losses(*texts),
    scores=risks.score(objective.metric, *texts),
    layers=layers.astype(np.float64),
    tokens=tokens.astype(np.float64),
    loss_range=objective.loss_range,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """R samples of n examples each.

  Attributes:
    table: of all examples.
    chosen: [R, n], their numbers.
  """

  table: ExampleTable
  chosen: np.ndarray

  @functools.cached_property
  def members(self) -> np.ndarray:
    """[R, N], how often each example is in each sample."""
    shape = (len(self.chosen), self.table.num_examples)
    places = self.chosen + shape[1] * np.arange(shape[0])[:, None]
    counts = np.bincount(places.ravel(), minlength=shape[0] * shape[1])
    return counts.reshape(shape).astype(np.float64)

  @functools.cached_property
  def means(self) -> naive.Means:
    """Means [R, G] of the samples."""
    return self.table.means(self.members)

  @functools.cached_property
  def _totals(self) -> np.ndarray:
    """[R, G'], sums of the losses at the thresholds below 1."""
    return self.members @ self.table.losses[:, self.table.thresholds < 1.0]

  def p_values(self, p_value: p_values.PValue, tolerance: float) -> np.ndarray:
    """[R, G'] of "the expected loss is too large", for thresholds below 1."""
    losses = self.table.losses[:, self.table.thresholds < 1.0]
    num_examples = self.chosen.shape[1]
    if isinstance(p_value, p_values.PValueOfTheSum):
      p_value.accepts.checked(losses, f'Losses for {p_value!r}')
      return p_value.from_totals(self._totals, num_examples, tolerance)
    at_once = max(1, _CHUNK // max(1, num_examples * losses.shape[1]))
    parts = [
      p_value(losses[self.chosen[start : start + at_once].T], tolerance)
      for start in range(0, len(self.chosen), at_once)
    ]
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class CalibratedRule:
  """Learn-then-Test as a rule: the lowest certified threshold of each sample.

  Attributes:
    p_value: for each threshold.
    procedure: decides with all p-values in hand.
    failure_prob: bound on the probability that the loss exceeds the tolerance.
    name, kind: as they stand in tables.
  """

  p_value: p_values.PValue
  procedure: choices.Procedure
  failure_prob: float
  name: str = 'calibrated'
  kind: str = 'calibrated'

  def columns(self, samples: Samples, tolerance: float) -> np.ndarray:
    """[R], places in the grid; 0, the full model, where none is certified."""
    certified = self._certified(samples, tolerance)
    if not certified.size:
      return np.zeros(len(certified), int)
    # Column 0 of the grid, the full model, is not among the tested ones.
    lowest = certified.shape[1] - certified[:, ::-1].argmax(axis=1)
    return np.where(certified.any(axis=1), lowest, 0)

  def _certified(self, samples, tolerance):
    """[R, G'] for the thresholds below 1."""
    if not isinstance(
      self.procedure, conformal_risk_control.ConformalRiskControl
    ):
      level = choices.first_level(
        self.procedure,
        self.failure_prob,
        int(np.sum(samples.table.thresholds < 1.0)),
      )
      values = samples.p_values(self.p_value.aimed_at(level), tolerance)
      return self.procedure(values, self.failure_prob)
    table = samples.table
    losses = conformal_risk_control.monotone_losses(
      table.losses[:, table.thresholds < 1.0]
    )
    return self.procedure.from_totals(
      samples.members @ losses, samples.chosen.shape[1], tolerance
    )
