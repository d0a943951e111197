"""A confidence bound of a mean loss, by inverting the calibration's test.

A tolerance that the test does not reject at level 1 - confidence could be the
true mean; the largest such tolerance bounds it from above. Finite-sample: no
normal approximation, any losses that the test accepts (duality of tests and
confidence sets; Bates et al. 2021, section 3.1).
"""

import numpy as np

from calm_jax import errors
from calm_jax.calibration import betting, loss_ranges, p_values, power


def default_p_value(loss_range: loss_ranges.LossRange) -> p_values.PValue:
  """The exact one where losses are 0 or 1, else betting.

  Not `StarBets`, which stops at one level and is made for one tolerance.
  """
  if p_values.Binomial.accepts.includes(loss_range):
    return p_values.Binomial()
  return betting.Betting()


def mean_loss_upper_bound(
  losses: np.ndarray,
  confidence: float = 0.95,
  p_value: p_values.PValue = betting.Betting(),  # noqa: B008,
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
  level = 1.0 - confidence
  p_value = p_value.aimed_at(level)
  losses = p_value.accepts.checked(losses)
  p_value(losses, 0.5)  # Refuses losses that are none.
  # Never rejected at the mean; at 1, which no loss exceeds, always.
  return power.smallest_rejected(
    lambda tolerances: p_value(losses[:, None], tolerances) <= level,
    float(losses.mean()),
    1.0,
  )
