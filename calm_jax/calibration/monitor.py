"""After deployment: does the promise still hold?

Some texts are audited: decoded by the full model too, and their loss computed.
A capital of 1 is bet on losses above the tolerance: bets b multiply it by
1 + b (L - d). As long as every expected loss, given all that was seen before,
is at most d, no strategy makes it grow on average, so it ever reaches 1 / e
with a probability of at most e (Ville's inequality): at any number of texts,
however often one looks. That is the alarm.

The capital is an average over fixed bets, which needs no forecast of when and
how much the loss will rise.
"""

import dataclasses
import math
import os
from collections.abc import Iterable

import numpy as np

from calm_jax import errors
from calm_jax.calibration import arrays, guarantee, loss_ranges
from calm_jax.records import json_records

# Of the largest bet that cannot lose everything: small ones last longest.
_SHARES = np.geomspace(0.005, 0.95, 30)
# Means for which the bound is computed.
_MEANS = np.linspace(0.0, 1.0, 201)[1:-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class State(json_records.Record):
  """All that a monitor knows, as its JSON file has it.

  Attributes:
    tolerance, failure_prob: as calibrated; the latter bounds the probability of
      ever raising a false alarm.
    losses: of the audited texts, in the order in which they came.
  """

  tolerance: float
  failure_prob: float
  losses: tuple[float, ...] = ()


class Monitor:
  """Watches audited losses, and says when the tolerance no longer holds.

  Which texts are audited must not depend on their content: take every
  hundredth, or draw lots. Who audits the texts that look wrong will be alarmed
  by them.

  No alarm is no proof that the promise holds: `lower_bound` says how much is
  proven lost, and nothing bounds the loss from above.
  """

  def __init__(self, tolerance: float, failure_prob: float = 0.05):
    """Starts without any text.

    Raises:
      ConfigError: a number is not in (0, 1).
    """
    guarantee.check_guarantee(tolerance, failure_prob)
    self._tolerance, self._failure_prob = float(tolerance), float(failure_prob)
    self._losses = np.zeros(0)

  @property
  def state(self) -> State:
    """What can be written down, and taken up again by `from_state`."""
    return State(
      tolerance=self._tolerance,
      failure_prob=self._failure_prob,
      losses=tuple(self._losses.tolist()),
    )

  @classmethod
  def from_state(cls, state: State) -> 'Monitor':
    """Goes on where another monitor was.

    Raises:
      CalmError: the state is damaged.
    """
    monitor = cls(state.tolerance, state.failure_prob)
    monitor.update(state.losses)
    return monitor

  def write(self, path: str | os.PathLike) -> None:
    """Writes the state, whole or not at all.

    Raises:
      ResourceError: it cannot be written.
    """
    json_records.write_json_atomically(path, self.state)

  @classmethod
  def read(cls, path: str | os.PathLike) -> 'Monitor':
    """Reads what `write` wrote.

    Raises:
      CalmError: it is missing or damaged.
    """
    return cls.from_state(json_records.read_json(path, State))

  def update(self, losses: Iterable[float] | float) -> bool:
    """Takes the losses of more audited texts, in [0, 1]; returns the alarm.

    Raises:
      DataError: no losses, with which nothing is changed.
    """
    if isinstance(losses, Iterable) and not isinstance(losses, np.ndarray):
      losses = list(losses)
    new = loss_ranges.UNIT.checked(
      np.atleast_1d(arrays.numbers(losses, 'Losses'))
    )
    if new.ndim != 1:
      raise errors.DataError(
        f'Losses of audited texts must be a row, got shape {new.shape}.'
      )
    self._losses = np.concatenate([self._losses, new])
    return self.alarm

  @property
  def num_examples(self) -> int:
    """Texts audited so far."""
    return len(self._losses)

  @property
  def alarm(self) -> bool:
    """Whether the promise is broken, at the failure probability. It stays."""
    return self.alarm_at is not None

  @property
  def alarm_at(self) -> int | None:
    """How many texts had been audited when it was raised first."""
    passed = np.flatnonzero(self.log_capital >= -math.log(self._failure_prob))
    return int(passed[0]) if len(passed) else None

  @property
  def log_capital(self) -> np.ndarray:
    """[texts + 1], from 0 on; log(1 / failure_prob) is an alarm."""
    return _log_capital(self._losses, np.array([self._tolerance]))[:, 0]

  @property
  def lower_bounds(self) -> np.ndarray:
    """[texts + 1], expected losses that are proven, text by text.

    With probability at least 1 - failure_prob, at all times at once: at some
    time until now the expected loss of a text was at least this.
    """
    target = -math.log(self._failure_prob)
    means = np.unique(np.append(_MEANS, self._tolerance))
    greatest = np.maximum.accumulate(_log_capital(self._losses, means), axis=0)
    # The means that are refused are the lowest ones, up to the bound.
    refused = np.logical_and.accumulate(greatest >= target, axis=1).sum(axis=1)
    return np.concatenate([[0.0], means])[refused]

  def __str__(self) -> str:
    told = f'{self.num_examples} audited texts'
    if self.num_examples:
      told += f', mean loss {self._losses.mean():.4f}'
    if self.alarm:
      return (
        f'ALARM after {self.alarm_at} of {told}: the expected loss is above the'
        f' tolerance of {self._tolerance:g}, or was at some time; stop early'
        ' exits, or calibrate on new texts.'
      )
    return (
      f'{told}: no proof that the expected loss is above the tolerance of'
      f' {self._tolerance:g}.'
    )


def _log_capital(losses: np.ndarray, means: np.ndarray) -> np.ndarray:
  """[t] losses, [m] null hypotheses -> [t + 1, m] from the start on."""
  total = np.full((len(losses), len(means)), -np.inf)
  for share in _SHARES:
    # A loss of 0 takes the share, whatever the mean is.
    steps = np.log1p(share * (losses[:, None] / means - 1.0))
    total = np.logaddexp(total, np.cumsum(steps, axis=0))
  start = np.zeros((1, len(means)))
  return np.concatenate([start, total - math.log(len(_SHARES))])
