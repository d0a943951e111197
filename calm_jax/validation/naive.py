"""How thresholds are chosen without a guarantee: the baselines of calibration.

Each rule is what a careful or a hasty person does with the calibration split:
look at means, and take the lowest threshold that looks good enough. None knows
how far a mean over a few hundred examples may be from the truth.

"Lowest" is not one thing where the loss is not monotone. A careful person scans
from 1 downwards and stops before the first threshold that is not good enough
(`scan=True`); a hasty one takes the lowest of all that are (`scan=False`), and
so may jump over thresholds that fail.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from calm_jax import errors

# A mean that equals a tolerance keeps it, whatever its last bit says.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Means:
  """What a sample of examples, or many samples, look like on average.

  Attributes:
    thresholds: [G], strictly descending, first 1 (the full model).
    losses: [..., G], mean loss.
    scores: [..., G], mean metric against the references.
    layers: [..., G], layers per token.

  Raises:
    ConfigError: the grid does not descend from 1.
  """

  thresholds: np.ndarray
  losses: np.ndarray
  scores: np.ndarray
  layers: np.ndarray

  def __post_init__(self):
    grid = np.asarray(self.thresholds)
    if not (len(grid) and grid[0] == 1.0 and np.all(np.diff(grid) < 0)):
      raise errors.ConfigError(
        'The thresholds must descend strictly from 1, the full model, got'
        f' {grid.tolist()}.'
      )


class NaiveRule(abc.ABC):
  """Means of calibration samples in, one threshold per sample out.

  Attributes:
    kind: as it stands in tables.
  """

  kind: ClassVar[str] = 'naive'

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """As it stands in tables."""

  @abc.abstractmethod
  def columns(self, means: Means, tolerance: float) -> np.ndarray:
    """Chooses for each sample.

    Args:
      means: of the calibration samples, [..., G].
      tolerance: bound on the expected loss that is wished for.

    Returns:
      [...], places in the grid; 0, the full model, where nothing else will do.
    """

  def thresholds(self, means: Means, tolerance: float) -> np.ndarray:
    """As `columns`, but the thresholds themselves."""
    return np.asarray(means.thresholds)[self.columns(means, tolerance)]


@dataclasses.dataclass(frozen=True)
class MeanLossWithinTolerance(NaiveRule):
  """The lowest threshold whose mean calibration loss is at most the tolerance.

  Attributes:
    scan: from 1 down, up to the first that fails; else the lowest of all.
  """

  scan: bool = True

  @property
  def name(self):
    return 'mean_loss_scan' if self.scan else 'mean_loss_lowest'

  def columns(self, means, tolerance):
    return _lowest(means.losses <= tolerance + ROUNDING, self.scan)


@dataclasses.dataclass(frozen=True)
class ShareOfFullMetric(NaiveRule):
  """The lowest threshold that keeps a share of the full model's mean metric.

  It has no use for the tolerance.

  Attributes:
    share: in (0, 1].
    scan: as for `MeanLossWithinTolerance`.

  Raises:
    ConfigError: no such share.
  """

  share: float = 0.95
  scan: bool = True

  def __post_init__(self):
    if not 0.0 < self.share <= 1.0:
      raise errors.ConfigError(
        f'The share of the full metric must be in (0, 1], got {self.share}.'
      )

  @property
  def name(self):
    lowest = '' if self.scan else '_lowest'
    return f'keeps_{100 * self.share:g}_percent{lowest}'

  def columns(self, means, tolerance):
    del tolerance
    wanted = self.share * means.scores[..., :1] - ROUNDING
    return _lowest(means.scores >= wanted, self.scan)


@dataclasses.dataclass(frozen=True)
class FixedThreshold(NaiveRule):
  """The same threshold for every model and task; looks at no data.

  Attributes:
    value: in [0, 1]; a grid without it gives its next higher threshold.

  Raises:
    ConfigError: no such threshold.
  """

  value: float = 0.9

  def __post_init__(self):
    if not 0.0 <= self.value <= 1.0:
      raise errors.ConfigError(
        f'The fixed threshold must be in [0, 1], got {self.value}.'
      )

  @property
  def name(self):
    return f'fixed_{self.value:g}'

  def columns(self, means, tolerance):
    del tolerance
    column = np.flatnonzero(np.asarray(means.thresholds) >= self.value)[-1]
    return np.full(means.losses.shape[:-1], column)


@dataclasses.dataclass(frozen=True)
class FewestLayers(NaiveRule):
  """The cheapest of all thresholds whose mean loss is at most the tolerance.

  On a dump whose measure is `StaticExit`, where a threshold is a layer, this is
  the best static layer. Of thresholds that cost the same, the highest.
  """

  @property
  def name(self):
    return 'fewest_layers'

  def columns(self, means, tolerance):
    keeps = means.losses <= tolerance + ROUNDING
    # The full model always keeps it, so there is always one.
    return np.where(keeps, means.layers, np.inf).argmin(axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle(NaiveRule):
  """`FewestLayers` for one who knows the population: nobody can do better.

  Attributes:
    population: [G], means over all examples that there are, the test's too.
  """

  population: Means

  kind = 'oracle'

  @property
  def name(self):
    return 'oracle'

  def columns(self, means, tolerance):
    column = FewestLayers().columns(self.population, tolerance)
    return np.full(means.losses.shape[:-1], column)


DEFAULTS: tuple[NaiveRule, ...] = (
  MeanLossWithinTolerance(),
  MeanLossWithinTolerance(scan=False),
  FewestLayers(),
  ShareOfFullMetric(0.95),
  ShareOfFullMetric(0.9),
  FixedThreshold(0.9),
)


def _lowest(good: np.ndarray, scan: bool) -> np.ndarray:
  """[..., G] bool, the first good by rule -> [...], the last good one's place.

  With `scan` only those count before which all are good.
  """
  # The full model has no loss and its own metric, whatever rounding says.
  good = np.concatenate([np.ones_like(good[..., :1]), good[..., 1:]], axis=-1)
  if scan:
    good = np.logical_and.accumulate(good, axis=-1)
  return good.shape[-1] - 1 - good[..., ::-1].argmax(axis=-1)
