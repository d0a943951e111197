"""A p-value that knows the variance of the sample: empirical Bernstein.

Maurer and Pontil 2009 (Empirical Bernstein Bounds and Sample Variance
Penalization), Theorem 4: for n losses in [0, 1] of mean r and sample variance v
(divided by n - 1), with probability at least 1 - u,

  E[loss] <= r + sqrt(2 v log(2/u) / n) + 7 log(2/u) / (3 (n - 1)).

The p-value is the smallest u whose bound stays within the tolerance.
"""

import dataclasses

import numpy as np

from calm_jax.calibration import p_values


@dataclasses.dataclass(frozen=True)
class EmpiricalBernstein(p_values.PValue):
  """Maurer and Pontil's bound, solved for its probability.

  Tight for many losses of small variance; loose below some hundred, because
  of its last term. `betting.Betting` is nearly always better, but needs an
  order of the examples, while this one needs only two sums.
  """

  def _of_losses(self, losses, tolerance):
    return self.from_moments(
      losses.sum(axis=0), (losses**2).sum(axis=0), losses.shape[0], tolerance
    )

  def from_moments(
    self,
    totals: np.ndarray,
    totals_of_squares: np.ndarray,
    num_examples: int,
    tolerance: float | np.ndarray,
  ) -> np.ndarray:
    """Returns [...] from sums of losses and of their squares, both [...].

    The caller answers for the range of the losses that were summed.

    Raises:
      ConfigError: a tolerance is out of range.
    """
    tolerance = self.checked_tolerance(tolerance)
    means = np.asarray(totals) / num_examples
    gaps = np.maximum(tolerance - means, 0.0)
    if num_examples < 2:  # One loss shows no variance.
      return np.ones_like(gaps)[()]
    # Rounding can leave the variance of equal losses a little below 0.
    variances = np.maximum(
      (np.asarray(totals_of_squares) - num_examples * means**2), 0.0
    ) / (num_examples - 1)
    # With x = sqrt(log(2 / u)): square x^2 + linear x = gap, solved for x >= 0
    # in the form that subtracts no near-equal numbers.
    square = 7.0 / (3.0 * (num_examples - 1))
    linear = np.sqrt(2.0 * variances / num_examples)
    root = linear + np.sqrt(linear**2 + 4.0 * square * gaps)
    x = 2.0 * gaps / np.maximum(root, np.finfo(np.float64).tiny)
    return np.minimum(2.0 * np.exp(-(x**2)), 1.0)
