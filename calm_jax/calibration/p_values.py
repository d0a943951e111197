"""p-values for "the expected loss exceeds the tolerance".

Second step of the calibration: losses -> p-values -> decisions. Null hypothesis
H: E[loss] > tolerance, for independent losses in [0, 1]. Each p-value here is
super-uniform under H, P(p <= u) <= u, for every sample size and every
distribution of the losses, so rejecting H when p <= failure_prob is wrong with
at most that probability. CALM writes delta for the tolerance and epsilon for
the failure probability, Learn-then-Test alpha and delta.

The three bounds depend on the losses only through their sum. Write n for the
number of losses, r for their mean and d for the tolerance.

References:
  Bates et al. 2021, Distribution-Free, Risk-Controlling Prediction Sets
    (Hoeffding's bound in its tighter form, Bentkus', and their minimum).
  Angelopoulos et al. 2021, Learn then Test.
  Schuster et al. 2022, CALM.
"""

import abc
import dataclasses

import numpy as np
from scipy import special

from calm_jax import errors


class PValue(abc.ABC):
  """Losses and a tolerance in, p-value out; smaller is more convincing."""

  @abc.abstractmethod
  def __call__(self, losses: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the p-values of one or several samples.

    Args:
      losses: [n] or [n, ...], in [0, 1]; examples come first.
      tolerance: in (0, 1).

    Returns:
      [...] in [0, 1]; a NumPy float for losses [n].

    Raises:
      DataError: no losses, or one is NaN or outside [0, 1].
    """


class _OfTheSum(PValue):
  """A p-value that needs only how many losses there are and their sum."""

  @abc.abstractmethod
  def from_totals(
    self, totals: np.ndarray, num_examples: int, tolerance: float
  ) -> np.ndarray:
    """Returns [...] from sums [...]; for many subsets of one sample at once."""

  def __call__(self, losses: np.ndarray, tolerance: float) -> np.ndarray:
    losses = np.asarray(losses, np.float64)
    if losses.ndim == 0 or losses.shape[0] == 0:
      raise errors.DataError('A p-value needs at least one loss, got none.')
    # Written so that NaN fails it.
    if not np.all((losses >= 0.0) & (losses <= 1.0)):
      raise errors.DataError(
        'Losses must be finite and in [0, 1], got a minimum of'
        f' {np.min(losses)} and a maximum of {np.max(losses)}.'
      )
    return self.from_totals(losses.sum(axis=0), losses.shape[0], tolerance)


@dataclasses.dataclass(frozen=True)
class Hoeffding(_OfTheSum):
  """exp(-2 n max(0, d - r)^2): simple, and the loosest."""

  def from_totals(self, totals, num_examples, tolerance):
    gap = np.maximum(tolerance - np.asarray(totals) / num_examples, 0.0)
    return np.exp(-2.0 * num_examples * gap**2)


@dataclasses.dataclass(frozen=True)
class ChernoffHoeffding(_OfTheSum):
  """exp(-n kl(min(r, d), d)), Hoeffding's bound before it is relaxed.

  kl(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)) is the divergence between coins
  of bias a and b, with 0 log 0 = 0: without any loss p = (1 - d)^n.
  """

  def from_totals(self, totals, num_examples, tolerance):
    mean = np.minimum(np.asarray(totals) / num_examples, tolerance)
    # rel_entr(x, y) = x log(x/y), and 0 at x = 0.
    divergence = special.rel_entr(mean, tolerance) + special.rel_entr(
      1.0 - mean, 1.0 - tolerance
    )
    # At mean = tolerance rounding can leave it a little below 0.
    return np.exp(-num_examples * np.maximum(divergence, 0.0))


@dataclasses.dataclass(frozen=True)
class Bentkus(_OfTheSum):
  """min(1, e P(Binomial(n, d) <= ceil(n r))): good far from the tolerance."""

  def from_totals(self, totals, num_examples, tolerance):
    counts = _ceil_of_total(totals)
    return np.minimum(np.e * special.bdtr(counts, num_examples, tolerance), 1.0)


@dataclasses.dataclass(frozen=True)
class HoeffdingBentkus(_OfTheSum):
  """The smaller of `ChernoffHoeffding` and `Bentkus`, CALM's choice.

  Under H both bound the probability of a mean of r or less, for every r, so
  the smaller one does too: it costs nothing to take it (Bates et al. 2021).
  """

  def from_totals(self, totals, num_examples, tolerance):
    return np.minimum(
      ChernoffHoeffding().from_totals(totals, num_examples, tolerance),
      Bentkus().from_totals(totals, num_examples, tolerance),
    )


DEFAULT = HoeffdingBentkus()


def _ceil_of_total(totals: np.ndarray) -> np.ndarray:
  """Returns ceil(sum of losses), immune to rounding just above an integer.

  ceil(n * mean) overshoots where the mean was rounded: 25 * (7 / 25) is
  7.000000000000001 and would count 8. The sum itself is exact for losses of 0
  and 1. For others each loss is off by some 1e-16, so a sum within 1e-9 above
  an integer (for up to a million examples) is that integer. At worst this
  certifies a tolerance that is 1e-9 / n larger.
  """
  return np.ceil(np.asarray(totals) - 1e-9)
