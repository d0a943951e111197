"""p-values for "the expected loss exceeds the tolerance".

Second step of the calibration: losses -> p-values -> decisions. Null hypothesis
H: E[loss] > tolerance, for independent losses of one distribution. Each p-value
is super-uniform under H, P(p <= u) <= u, for every sample size and every
distribution in the range that it `accepts`, so rejecting H when
p <= failure_prob is wrong with at most that probability. CALM writes delta for
the tolerance and epsilon for the failure probability, Learn-then-Test alpha and
delta.

The bounds of this file depend on the losses only through their sum; those that
look at more have files of their own (`betting`, `empirical_bernstein`). Write n
for the number of losses, r for their mean and d for the tolerance.

References:
  Bates et al. 2021, Distribution-Free, Risk-Controlling Prediction Sets
    (Hoeffding's bound in its tighter form, Bentkus', and their minimum).
  Angelopoulos et al. 2021, Learn then Test (the binomial tail).
  Schuster et al. 2022, CALM.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from scipy import special

from calm_jax import errors
from calm_jax.calibration import arrays, loss_ranges


class PValue(abc.ABC):
  """Losses and a tolerance in, p-value out; smaller is more convincing.

  Attributes:
    accepts: the losses that the p-value is valid for.
  """

  accepts: ClassVar[loss_ranges.LossRange] = loss_ranges.UNIT

  def __call__(
    self, losses: np.ndarray, tolerance: float | np.ndarray
  ) -> np.ndarray:
    """Returns the p-values of one or several samples.

    Args:
      losses: [n] or [n, ...], in the range `accepts`; examples come first.
      tolerance: below 1, and above the least possible loss; a number, or an
        array that broadcasts against [...], to test many at once.

    Returns:
      [...] in [0, 1]; a NumPy float for losses [n] and one tolerance.

    Raises:
      ConfigError: a tolerance is out of range.
      DataError: no losses, or one is NaN or outside `accepts`.
    """
    tolerance = self.checked_tolerance(tolerance)
    losses = self.accepts.checked(losses, f'Losses for {self!r}')
    if losses.ndim == 0 or losses.shape[0] == 0:
      raise errors.DataError('A p-value needs at least one loss, got none.')
    return self._of_losses(losses, tolerance)

  @abc.abstractmethod
  def _of_losses(self, losses: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """As `__call__`, for checked losses and tolerances."""

  def aimed_at(self, level: float) -> 'PValue':
    """Returns the p-value that has its greatest power at that level.

    Most have no such knob and return themselves.
    """
    del level
    return self

  def checked_tolerance(self, tolerance: float | np.ndarray) -> np.ndarray:
    """Returns tolerances as an array.

    Raises:
      ConfigError: one is not below 1 or not above the least possible loss,
        where nothing or everything would be certified.
    """
    values = arrays.numbers(tolerance, 'A tolerance', errors.ConfigError)
    # Written so that NaN fails it.
    if not np.all((values > self.accepts.lower) & (values < 1.0)):
      raise errors.ConfigError(
        f'A tolerance for {self!r} must be above {self.accepts.lower:g} and'
        f' below 1, got {np.ravel(values)[:5].tolist()}.'
      )
    return values


class PValueOfTheSum(PValue):
  """A p-value that needs only how many losses there are and their sum."""

  def from_totals(
    self,
    totals: np.ndarray,
    num_examples: int | np.ndarray,
    tolerance: float | np.ndarray,
  ) -> np.ndarray:
    """Returns [...] from sums [...]; for many subsets of one sample at once.

    The caller answers for the range of the losses that were summed.

    Raises:
      ConfigError: a tolerance is out of range.
    """
    return self._of_totals(
      np.asarray(totals), num_examples, self.checked_tolerance(tolerance)
    )

  @abc.abstractmethod
  def _of_totals(
    self,
    totals: np.ndarray,
    num_examples: int | np.ndarray,
    tolerance: np.ndarray,
  ) -> np.ndarray:
    """As `from_totals`, for checked tolerances."""

  def _of_losses(self, losses, tolerance):
    return self._of_totals(losses.sum(axis=0), losses.shape[0], tolerance)


@dataclasses.dataclass(frozen=True)
class Hoeffding(PValueOfTheSum):
  """exp(-2 n max(0, d - r)^2): simple, and the loosest."""

  def _of_totals(self, totals, num_examples, tolerance):
    gap = np.maximum(tolerance - totals / num_examples, 0.0)
    return np.exp(-2.0 * num_examples * gap**2)


@dataclasses.dataclass(frozen=True)
class ChernoffHoeffding(PValueOfTheSum):
  """exp(-n kl(min(r, d), d)), Hoeffding's bound before it is relaxed.

  kl(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)) is the divergence between coins
  of bias a and b, with 0 log 0 = 0: without any loss p = (1 - d)^n.
  """

  def _of_totals(self, totals, num_examples, tolerance):
    mean = np.minimum(totals / num_examples, tolerance)
    # rel_entr(x, y) = x log(x/y), and 0 at x = 0.
    divergence = special.rel_entr(mean, tolerance) + special.rel_entr(
      1.0 - mean, 1.0 - tolerance
    )
    # At mean = tolerance rounding can leave it a little below 0.
    return np.exp(-num_examples * np.maximum(divergence, 0.0))


@dataclasses.dataclass(frozen=True)
class Bentkus(PValueOfTheSum):
  """min(1, e P(Binomial(n, d) <= ceil(n r))): good far from the tolerance."""

  def _of_totals(self, totals, num_examples, tolerance):
    counts = _ceil_of_total(totals)
    return np.minimum(np.e * special.bdtr(counts, num_examples, tolerance), 1.0)


@dataclasses.dataclass(frozen=True)
class HoeffdingBentkus(PValueOfTheSum):
  """The smaller of `ChernoffHoeffding` and `Bentkus`, CALM's choice.

  Under H both bound the probability of a mean of r or less, for every r, so
  the smaller one does too: it costs nothing to take it (Bates et al. 2021).
  """

  def _of_totals(self, totals, num_examples, tolerance):
    return np.minimum(
      ChernoffHoeffding()._of_totals(totals, num_examples, tolerance),
      Bentkus()._of_totals(totals, num_examples, tolerance),
    )


@dataclasses.dataclass(frozen=True)
class Binomial(PValueOfTheSum):
  """P(Binomial(n, d) <= n r): exact, so the best one, for losses of 0 or 1.

  Other losses are refused: only then is the sum binomial. `from_totals` sees
  sums alone, so it can but refuse those that are no whole number.
  """

  accepts = loss_ranges.ZERO_OR_ONE

  def _of_totals(self, totals, num_examples, tolerance):
    counts = np.round(totals)
    if np.any(np.abs(counts - totals) > _ROUNDING):
      raise errors.DataError(
        'The binomial p-value needs losses of 0 or 1, whose sum is a whole'
        f' number, got a sum of {np.ravel(totals)[:5].tolist()}.'
      )
    return special.bdtr(counts, num_examples, tolerance)


# A sum of up to a million losses of at most 1 is off by less.
_ROUNDING = 1e-9


def _ceil_of_total(totals: np.ndarray) -> np.ndarray:
  """Returns ceil(sum of losses), immune to rounding just above an integer.

  ceil(n * mean) overshoots where the mean was rounded: 25 * (7 / 25) is
  7.000000000000001 and would count 8. The sum itself is exact for losses of 0
  and 1. For others each loss is off by some 1e-16, so a sum within 1e-9 above
  an integer (for up to a million examples) is that integer. At worst this
  certifies a tolerance that is 1e-9 / n larger.
  """
  return np.ceil(np.asarray(totals) - _ROUNDING)
