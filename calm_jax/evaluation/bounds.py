"""A confidence bound of a mean loss, by inverting the calibration's test.

A tolerance that the test does not reject at level 1 - confidence could be the
true mean; the largest such tolerance bounds it from above. Finite-sample: no
normal approximation, any losses that the test accepts (duality of tests and
confidence sets; Bates et al. 2021, section 3.1).
"""

import numpy as np

from calm_jax import errors
from calm_jax.calibration import p_values


def mean_loss_upper_bound(
  losses: np.ndarray,
  confidence: float = 0.95,
  p_value: p_values.PValue = p_values.DEFAULT,
) -> float:
  """Returns the one-sided upper bound of the expected loss.

  With probability at least `confidence` over the draw of the examples, the
  expected loss is at most the bound.

  Args:
    losses: [N] that `p_value` accepts, of independent examples.
    confidence: in (0, 1).
    p_value: decreasing in the tolerance, as all in `calibration` are.

  Raises:
    ConfigError: the confidence is not in (0, 1).
    DataError: no losses, or one is NaN or not accepted.
  """
  if not 0.0 < confidence < 1.0:
    raise errors.ConfigError(
      f'The confidence must be in (0, 1), got {confidence}; usual is 0.95.'
    )
  losses = np.asarray(losses, np.float64)
  p_value(losses, 0.5)  # refuses losses that are none
  # Never rejected at `low`, rejected (or 1, which no loss exceeds) at `high`.
  low, high = float(losses.mean()), 1.0
  while low < (middle := (low + high) / 2) < high:
    if p_value(losses, middle) <= 1.0 - confidence:
      high = middle
    else:
      low = middle
  return high
