"""p-values by betting against "the expected loss exceeds the tolerance".

Start with a capital of 1 and, before each loss L is seen, bet b that it will
stay below the tolerance d: the capital is multiplied by 1 + b (d - L). If the
expected loss is d or more, no strategy makes the capital grow on average, so by
Ville's inequality it ever reaches 1 / u with a probability of at most u.
p = 1 / (greatest capital on the way) is therefore valid, for every sample size
and every strategy that looks at earlier losses only (Waudby-Smith and Ramdas,
Estimating means of bounded random variables by betting, 2024).

The capital at the end gives a valid p-value too (Markov's inequality), but
never a smaller one: the greatest capital is at least the last.

The strategies of this module differ in one number, how fast the capital should
grow; `Capital` keeps the books for both.
"""

import abc
import dataclasses
import numbers

import numpy as np

from calm_jax import errors
from calm_jax.calibration import loss_ranges, p_values

# Columns worked on at once: their books stay in a processor's cache.
_COLUMNS_AT_ONCE = 2**13

# What bets aim at where nobody says what level will be tested at.
_USUAL_LEVEL = 0.05

# Of a variance and of what a bet leaves, so that neither rounds to nothing.
_LEAST = 1e-9


@dataclasses.dataclass(frozen=True)
class Bets(p_values.PValue):
  """A betting p-value; subclasses say how much to bet.

  The bet is sqrt(2 g / (m v)), where v is the variance of the losses seen, g
  the logarithm by which the capital shall grow and m the number of losses in
  which it shall: such bets grow best on m losses of that variance. The variance
  is learned on the way, so that fewer examples are needed than by bounds that
  assume the worst one, most of all where losses are not only 0 or 1. A capital
  must not become negative, which needs nothing but losses of at most 1:
  negative ones, improvements, are welcome.

  The order of the examples matters, and must not depend on the losses. A dump
  is sorted by length, and length may go with loss; so the examples are put into
  a random order first, drawn from `seed`. The guarantee is over the draw of the
  examples and of that order. Whoever tries several seeds and takes the best has
  none.

  Attributes:
    level: that the bets aim at. The p-value is valid whatever it is, and most
      powerful there. None: the level that the procedure tests at, which
      `calibrate` knows; 0.05 where nothing is known.
    greatest_share: of the capital that one loss may take, in (0, 1). None: 0.99
      for tolerances from 0.05 up and 1 - tolerance / 5 below, so that without
      any loss no more examples are needed than by Hoeffding-Bentkus.
    seed: of the random order, at least 0.

  Raises:
    ConfigError: when made, if a knob is out of range.
  """

  level: float | None = None
  greatest_share: float | None = None
  seed: int = 0

  accepts = loss_ranges.AT_MOST_ONE

  def __post_init__(self):
    for name in ('level', 'greatest_share'):
      value = getattr(self, name)
      if value is not None and not _is_number_in_unit(value):
        raise errors.ConfigError(
          f'{name} of {type(self).__name__} must be in (0, 1) or None, got'
          f' {value!r}.'
        )
    # Without one, every call would give another answer.
    if (
      isinstance(self.seed, bool)
      or not isinstance(self.seed, numbers.Integral)
      or self.seed < 0
    ):
      raise errors.ConfigError(
        f'seed of {type(self).__name__} must be a whole number of at least 0,'
        f' got {self.seed!r}.'
      )

  def aimed_at(self, level):
    if self.level is not None:
      return self
    return dataclasses.replace(self, level=float(level))

  def order(self, num_examples: int) -> np.ndarray:
    """[n], the order in which the examples are bet on."""
    return np.random.default_rng(self.seed).permutation(num_examples)

  @abc.abstractmethod
  def goal(
    self, log_target: float, log_capital: np.ndarray, seen: int, n: int
  ) -> np.ndarray:
    """Returns g / m, the growth per loss that the next bet aims at.

    Args:
      log_target: log(1 / level).
      log_capital: [c], now.
      seen: losses bet on so far, fewer than n.
      n: losses there are.
    """

  def _of_losses(self, losses, tolerance):
    # Output number i belongs to column columns[i] and tolerances[i].
    columns = np.arange(losses[0].size).reshape(losses.shape[1:])
    columns, tolerances = np.broadcast_arrays(columns, tolerance)
    table = losses.reshape(len(losses), -1)[self.order(len(losses))]
    values = np.empty(columns.size)
    for start in range(0, columns.size, _COLUMNS_AT_ONCE):
      part = slice(start, start + _COLUMNS_AT_ONCE)
      capital = Capital(self, tolerances.ravel()[part], len(losses))
      for row in table[:, columns.ravel()[part]]:
        capital.bet_on(row)
      values[part] = capital.p_values()
    return values.reshape(columns.shape)[()]


class Capital:
  """The books of many bettors, who see one loss each at a time.

  Attributes:
    log_capital: [c], now.
    log_greatest: [c], the greatest so far, at least 0.
    seen: losses bet on so far.
  """

  def __init__(self, bets: Bets, tolerance: np.ndarray, num_examples: int):
    """Starts with 1, that is log 1 = 0.

    Args:
      bets: the strategy.
      tolerance: [c], below 1.
      num_examples: n, losses there will be at most.
    """
    self._bets, self._n = bets, num_examples
    self._tolerance = np.asarray(tolerance, np.float64)
    self._log_target = -np.log(bets.level or _USUAL_LEVEL)
    self._greatest_bet = _share(bets, self._tolerance) / (1.0 - self._tolerance)
    self.log_capital = np.zeros_like(self._tolerance)
    self.log_greatest = np.zeros_like(self._tolerance)
    self.seen = 0
    self._mean = np.zeros_like(self._tolerance)
    self._squares, self._weight = _imagined(self._tolerance)

  def bet_on(self, losses: np.ndarray) -> None:
    """Bets, then sees the losses [c], at most 1 each."""
    variance = self._squares / (self.seen + self._weight)
    goal = self._bets.goal(
      self._log_target, self.log_capital, self.seen, self._n
    )
    bet = np.minimum(np.sqrt(2.0 * goal / variance), self._greatest_bet)
    # In logarithms, where a thousand wins do not overflow.
    self.log_capital = self.log_capital + np.log1p(
      bet * (self._tolerance - losses)
    )
    np.maximum(self.log_greatest, self.log_capital, out=self.log_greatest)
    self.seen += 1
    change = losses - self._mean
    self._mean = self._mean + change / self.seen
    self._squares = self._squares + change * (losses - self._mean)

  def p_values(self) -> np.ndarray:
    """[c], valid whenever one stops, even because of what was seen."""
    return np.exp(-self.log_greatest)


@dataclasses.dataclass(frozen=True)
class Betting(Bets):
  """Predictable plug-in bets: log(1 / level) in n losses, whatever happened.

  `StarBets` finds more where it knows its level. This p-value does not stop at
  the level, and falls as the tolerance rises, so it also serves to find bounds.
  """

  def goal(self, log_target, log_capital, seen, n):
    return log_target / n


@dataclasses.dataclass(frozen=True)
class StarBets(Bets):
  """Bets that recalculate their target: what is missing, in what is left.

  With capital K after t losses they aim at log(1 / (level K)) in n - t losses:
  bolder after bad luck, and none any more once 1 / level is reached, which is
  all that the test at that level asks for (Voracek and Orabona, STaR-Bets:
  sequential target-recalculating bets for tighter confidence intervals, 2025).
  So its p-value is hardly ever far below the level.
  """

  def goal(self, log_target, log_capital, seen, n):
    return np.maximum(log_target - log_capital, 0.0) / (n - seen)


def _share(bets: Bets, tolerance: np.ndarray) -> np.ndarray:
  if bets.greatest_share is not None:
    return np.full_like(tolerance, bets.greatest_share)
  # One loss of 1 must leave something, also where the tolerance is 0 or less.
  risked = np.clip(tolerance / 5, _LEAST, 0.01)
  return np.where(tolerance > 0.0, 1.0 - risked, 0.99)


def _imagined(tolerance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """What is assumed to have been seen before: squares, and of how many losses.

  One loss of 1 among 1 / tolerance. A longer run without any shows that losses
  are rarer; a shorter one shows nothing, and must not look like no variance.
  Where the tolerance is 0 or less there is no such number; then it is one loss
  of variance 1/4. The choice costs no validity.
  """
  small = np.maximum(tolerance, _LEAST)
  positive = tolerance > 0.0
  return (
    np.where(positive, 1.0 - small, 0.25),
    np.where(positive, 1.0 / small, 1.0),
  )


def _is_number_in_unit(value) -> bool:
  return isinstance(value, numbers.Real) and 0.0 < float(value) < 1.0
