"""A p-value by betting against "the expected loss exceeds the tolerance".

Start with a capital of 1 and, before each loss L is seen, bet that it will stay
below the tolerance d: the capital is multiplied by 1 + b (d - L). If the
expected loss is d or more, no strategy makes the capital grow on average, so by
Ville's inequality it ever reaches 1 / u with a probability of at most u.
p = 1 / (greatest capital on the way) is therefore valid, for every sample size
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by
betting, 2024; as a p-value in Angelopoulos et al. 2021, Learn then Test).

The capital at the end gives a valid p-value too (Markov's inequality), but
never a smaller one: the greatest capital is at least the last.
"""

import dataclasses

import numpy as np

from calm_jax import errors
from calm_jax.calibration import loss_ranges, p_values

# Numbers worked on at once: small enough for a processor's cache.
_CHUNK = 2**18


@dataclasses.dataclass(frozen=True)
class Betting(p_values.PValue):
  """The betting p-value with predictable plug-in bets.

  The bet on the next loss is sqrt(2 log(1 / level) / (n v)), where v is the
  variance of the losses before it: the bet with which n losses of that variance
  best reach the capital 1 / level. It learns the variance, so it needs fewer
  examples than bounds that assume the worst one, most of all where losses are
  not only 0 or 1. A capital must not become negative, which needs nothing but
  losses of at most 1: negative ones, improvements, are welcome.

  The order of the examples matters, and must not depend on the losses. A dump
  is sorted by length, and length may go with loss; so the examples are put into
  a random order first, drawn from `seed`. The guarantee is over the draw of the
  examples and of that order. Do not try several seeds.

  Attributes:
    level: the failure probability that the bets aim at. The p-value is valid
      whatever it is, and most powerful near it.
    greatest_share: of the capital that one loss may take, in (0, 1).
    seed: of the random order.
  """

  level: float = 0.05
  greatest_share: float = 0.75
  seed: int = 0

  accepts = loss_ranges.AT_MOST_ONE

  def __post_init__(self):
    for name in ('level', 'greatest_share'):
      value = getattr(self, name)
      if not 0.0 < value < 1.0:
        raise errors.ConfigError(
          f'{name} of Betting must be in (0, 1), got {value}.'
        )

  def __call__(self, losses, tolerance):
    losses = self._checked(losses)
    order = np.random.default_rng(self.seed).permutation(len(losses))
    # Output number i belongs to column columns[i] and tolerances[i].
    columns = np.arange(losses[0].size).reshape(losses.shape[1:])
    columns, tolerances = np.broadcast_arrays(columns, tolerance)
    table = losses.reshape(len(losses), -1)
    values = np.empty(columns.size)
    width = max(1, _CHUNK // len(losses))
    for start in range(0, columns.size, width):
      part = slice(start, start + width)
      values[part] = self._p_values(
        table[np.ix_(order, columns.ravel()[part])], tolerances.ravel()[part]
      )
    return values.reshape(columns.shape)[()]

  def _p_values(self, losses: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """[n, c] losses in their random order, [c] tolerances -> [c]."""
    bets = np.minimum(
      np.sqrt(
        -2.0 * np.log(self.level) / (len(losses) * _past_variances(losses))
      ),
      self.greatest_share / (1.0 - tolerance),
    )
    # In logarithms, where a thousand wins do not overflow.
    log_capital = np.cumsum(np.log1p(bets * (tolerance - losses)), axis=0)
    return np.exp(-np.max(log_capital, axis=0, initial=0.0))


def _past_variances(losses: np.ndarray) -> np.ndarray:
  """[n, c] -> [n, c]: for each loss, the variance of those before it.

  Smoothed by one imagined loss of mean 1/2 and variance 1/4.
  """
  counts = np.arange(2, len(losses) + 2)[:, None]
  means = (0.5 + np.cumsum(losses, axis=0)) / counts
  variances = (0.25 + np.cumsum((losses - means) ** 2, axis=0)) / counts
  return np.concatenate([np.full_like(losses[:1], 0.25), variances[:-1]])
