"""The monitor: false alarms, true ones, and a state that goes on."""

import math

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import monitor

TOLERANCE, FAILURE_PROB, TEXTS = 0.1, 0.1, 400


def watched(losses):
  watching = monitor.Monitor(TOLERANCE, FAILURE_PROB)
  watching.update(losses)
  return watching


def independent(random):
  return random.beta(0.5, 4.5, TEXTS)


def reacting(random):
  """Coins whose chance depends on what was seen, and never exceeds 0.1."""
  losses, streak = [], 0
  for uniform in random.random(TEXTS):
    losses.append(float(uniform < (0.1 if streak < 5 else 0.02)))
    streak = 0 if losses[-1] else streak + 1
  return np.array(losses)


@pytest.mark.parametrize('sample', [independent, reacting])
def test_false_alarms_at_any_time_are_rare(sample):
  draws = 500
  random = np.random.default_rng(0)
  alarms = np.mean([watched(sample(random)).alarm for _ in range(draws)])
  sigma = math.sqrt(FAILURE_PROB * (1 - FAILURE_PROB) / draws)
  assert alarms <= FAILURE_PROB + 3 * sigma
  if sample is independent:
    assert alarms > 0.0


def test_a_rise_is_found_and_the_alarm_stays():
  random = np.random.default_rng(1)
  found = []
  for _ in range(40):
    losses = np.concatenate(
      [0.5 * (random.random(200) < p) for p in (0.1, 0.5, 0.5, 0.0)]
    )
    watching = watched(losses)
    assert watching.alarm
    found.append(watching.alarm_at)
  # After the rise, and mostly within 200 texts of it.
  assert np.mean(np.array(found) > 200) > 0.9
  assert np.median(found) < 400
  assert 'ALARM after' in str(watching)


def test_by_hand():
  """An average of fixed bets, one text after the other."""
  losses = [0.3, 0.0, 1.0]
  shares = [0.005 * 190 ** (k / 29) for k in range(30)]
  capitals, history = [1.0] * 30, [1.0]
  for loss in losses:
    capitals = [
      k * (1 + s / TOLERANCE * (loss - TOLERANCE))
      for k, s in zip(capitals, shares, strict=True)
    ]
    history.append(sum(capitals) / 30)
  got = watched(losses).log_capital
  np.testing.assert_allclose(np.exp(got), history)


def test_the_bound_is_above_the_tolerance_exactly_after_the_alarm():
  random = np.random.default_rng(2)
  losses = 0.6 * (random.random(300) < 0.5)
  watching = watched(losses)
  above = watching.lower_bounds >= TOLERANCE
  assert watching.alarm_at == np.flatnonzero(above)[0]
  assert np.all(np.diff(watching.lower_bounds) >= 0)
  # And it never proves more than there is, but for the failure probability.
  wrong = [
    watched(0.6 * (random.random(200) < 0.2)).lower_bounds[-1] > 0.12
    for _ in range(150)
  ]
  assert np.mean(wrong) <= 0.1 + 3 * math.sqrt(0.09 / 150)


def test_the_state_goes_on_where_it_was(tmp_path):
  losses = np.random.default_rng(3).random(50)
  once = watched(losses)
  first = watched(losses[:20])
  first.write(tmp_path / 'monitor.json')
  second = monitor.Monitor.read(tmp_path / 'monitor.json')
  for loss in losses[20:]:
    second.update(loss)
  assert second.state == once.state
  assert np.array_equal(second.log_capital, once.log_capital)
  assert second.num_examples == 50


@pytest.mark.parametrize('losses', [[1.1], [-0.1], ['a'], [[0.1]], math.nan])
def test_no_losses_change_nothing(losses):
  watching = watched([0.1, 0.2])
  with pytest.raises(errors.DataError):
    watching.update(losses)
  assert watching.num_examples == 2


def test_no_text_yet():
  watching = monitor.Monitor(0.1)
  assert not watching.alarm and watching.lower_bounds.tolist() == [0.0]
  assert '0 audited texts' in str(watching)
  with pytest.raises(errors.ConfigError):
    monitor.Monitor(0.0)
