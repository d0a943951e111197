"""The betting p-value: against a plain loop, and why its details matter."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calm_jax import errors
from calm_jax.calibration import betting, p_values


def capital_by_hand(losses, tolerance, level=0.05, share=0.75):
  """The capital after each loss, in the order given; [n] or [n, draws].

  Written from the definition, one loss after the other.
  """
  losses = np.asarray(losses, float)
  n = len(losses)
  capital = np.ones(losses.shape[1:])
  total, squares = np.full_like(capital, 0.5), np.full_like(capital, 0.25)
  history = [capital]
  for seen, loss in enumerate(losses):
    variance = squares / (seen + 1)
    bet = np.sqrt(2 * math.log(1 / level) / (n * variance))
    bet = np.minimum(bet, share / (1 - tolerance))
    capital = capital * (1 + bet * (tolerance - loss))
    total = total + loss
    squares = squares + (loss - total / (seen + 2)) ** 2
    history.append(capital)
  return np.array(history)


@hypothesis.given(
  losses=st.lists(st.floats(-3, 1), min_size=1, max_size=40),
  tolerance=st.floats(-0.5, 0.95),
  level=st.sampled_from([0.01, 0.05, 0.3]),
  seed=st.integers(0, 5),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_agrees_with_a_plain_loop(losses, tolerance, level, seed):
  losses = np.array(losses)
  order = np.random.default_rng(seed).permutation(len(losses))
  history = capital_by_hand(losses[order], tolerance, level)
  got = betting.Betting(level=level, seed=seed)(losses, tolerance)
  assert got == pytest.approx(1 / history.max(), rel=1e-9)
  # The capital at the end is never more convincing.
  assert got <= min(1.0, 1 / history[-1]) * (1 + 1e-9)


def test_many_samples_and_tolerances_at_once():
  random = np.random.default_rng(0)
  losses = random.random((50, 4, 3)) * 0.3
  p_value = betting.Betting()
  together = p_value(losses, 0.25)
  tolerances = np.array([0.2, 0.3])
  table = p_value(losses[..., None], tolerances)
  assert together.shape == (4, 3) and table.shape == (4, 3, 2)
  for i, j in np.ndindex(4, 3):
    assert together[i, j] == p_value(losses[:, i, j], 0.25)
    for k, tolerance in enumerate(tolerances):
      assert table[i, j, k] == p_value(losses[:, i, j], tolerance)


def test_columns_beyond_one_chunk(monkeypatch):
  losses = np.random.default_rng(0).random((20, 33)) * 0.3
  expected = betting.Betting()(losses, 0.25)
  monkeypatch.setattr(betting, '_CHUNK', 100)  # five columns at a time
  assert np.array_equal(betting.Betting()(losses, 0.25), expected)


@hypothesis.given(
  losses=st.lists(st.floats(-1, 1), min_size=1, max_size=40),
  tolerance=st.floats(0.01, 0.9),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_monotone_in_the_tolerance_and_in_the_level_of_losses(
  losses, tolerance
):
  """So that a bound of the mean may be found by halving."""
  losses = np.array(losses)
  p_value = betting.Betting()
  p = p_value(losses, tolerance)
  assert 0.0 <= p <= 1.0
  assert p_value(losses, tolerance + 0.05) <= p * (1 + 1e-9)


def test_a_higher_mean_is_less_convincing():
  """At the same variance, as every other p-value of the room."""
  random = np.random.default_rng(3)
  noise = random.random(400) * 0.1
  values = [betting.Betting()(noise + m, 0.2) for m in (0.0, 0.05, 0.1, 0.2)]
  assert values == sorted(values) and values[0] < 1e-4 and values[-1] > 0.5


def test_no_loss():
  """Every bet is won; the bets grow to the greatest one allowed."""
  p_value = betting.Betting()
  p = p_value(np.zeros(1000), 0.1)
  factor = 1 + 0.75 * 0.1 / 0.9
  assert factor**-1000 <= p < factor**-900
  # A thousand wins neither overflow nor give a p-value of exactly 0.
  assert 0.0 < p < 1e-30
  assert p_value(np.full(5, 1.0), 0.1) == 1.0


def test_a_sorted_sample_does_not_deceive():
  """In the order of a sorted dump the small losses come first, and the capital
  is great before the large ones are seen: wrong far too often."""
  random = np.random.default_rng(11)
  n, draws, level, mean = 200, 600, 0.1, 0.1
  losses = np.sort(random.beta(0.5, 4.5, (n, draws)), axis=0)
  in_order = 1 / capital_by_hand(losses, mean).max(axis=0)
  assert np.mean(in_order <= level) > 0.9
  shuffled = [
    betting.Betting(seed=seed)(losses[:, seed], mean) for seed in range(draws)
  ]
  sigma = math.sqrt(level * (1 - level) / draws)
  assert np.mean(np.array(shuffled) <= level) <= level + 3 * sigma


def test_finds_more_than_bounds_of_the_mean_alone():
  """The order of power where losses are not only 0 and 1."""
  random = np.random.default_rng(4)
  losses = random.random((1000, 300)) * (random.random((1000, 300)) < 0.16)
  found = {
    p_value: np.mean(p_value(losses, 0.1) <= 0.05)
    for p_value in (
      p_values.Hoeffding(),
      p_values.HoeffdingBentkus(),
      betting.Betting(),
    )
  }
  rates = list(found.values())
  assert rates == sorted(rates)
  assert rates[0] < 0.1 and 0.4 < rates[1] < 0.6 and rates[2] > 0.7


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1.01])
def test_only_losses_above_1_are_refused(bad):
  p_value = betting.Betting()
  with pytest.raises(errors.DataError, match='finite and at most 1'):
    p_value(np.array([0.1, bad]), 0.2)
  with pytest.raises(errors.DataError, match='at least one loss'):
    p_value(np.array([]), 0.2)
  assert p_value(np.array([-5.0, 1.0]), 0.2) <= 1.0


@pytest.mark.parametrize(
  'knobs', [{'level': 0.0}, {'greatest_share': 1.0}, {'level': math.nan}]
)
def test_knobs_out_of_range(knobs):
  with pytest.raises(errors.ConfigError, match=r'must be in \(0, 1\)'):
    betting.Betting(**knobs)
