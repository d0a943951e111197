"""Confidence interval of a share, exact for every number of trials."""

import numpy as np
from scipy import special


def clopper_pearson(
  successes: np.ndarray | int, trials: int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
  """Two-sided interval of a binomial probability (Clopper and Pearson 1934).

  Args:
    successes: [...] in 0..trials.
    trials: at least 1.
    confidence: in (0, 1).

  Returns:
    Lower and upper bound, [...] each. With at least this confidence, whatever
    the probability, it lies between them.
  """
  successes = np.asarray(successes)
  tail = (1.0 - confidence) / 2.0
  # Beta distributions of no successes or no failures do not exist: 0 and 1.
  with np.errstate(invalid='ignore'):
    low = special.betaincinv(successes, trials - successes + 1, tail)
    high = special.betaincinv(successes + 1, trials - successes, 1.0 - tail)
  return (
    np.where(successes == 0, 0.0, low),
    np.where(successes == trials, 1.0, high),
  )
