"""The betting p-value: against a plain loop, and why its details matter."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calm_jax import errors
from calm_jax.calibration import betting, p_values

BOTH = [betting.Betting, betting.StarBets]


def capital_by_hand(losses, tolerance, kind, level=0.05):
  """The capital after each loss, in the order given.

  Written from the definitions, one loss after the other.
  """
  n, capital, history = len(losses), 1.0, [1.0]
  share = 0.99
  if tolerance > 0:
    share = max(share, 1 - max(tolerance / 5, 1e-9))
  squares, weight = 0.25, 1
  if tolerance > 0:  # one loss of 1 among 1 / tolerance
    squares, weight = 1 - tolerance, 1 / max(tolerance, 1e-9)
  for seen, loss in enumerate(losses):
    past = losses[:seen]
    around = sum((x - np.mean(past)) ** 2 for x in past)
    variance = (squares + around) / (seen + weight)
    if kind is betting.Betting:
      growth = math.log(1 / level) / n
    else:
      missing = math.log(1 / level) - math.log(capital)
      growth = max(0.0, missing) / (n - seen)
    bet = min(math.sqrt(2 * growth / variance), share / (1 - tolerance))
    capital *= 1 + bet * (tolerance - loss)
    history.append(capital)
  return np.array(history)


@pytest.mark.parametrize('kind', BOTH)
@hypothesis.given(
  losses=st.lists(st.floats(-3, 1), min_size=1, max_size=40),
  tolerance=st.floats(-0.5, 0.95),
  level=st.sampled_from([0.01, 0.05, 0.3]),
  seed=st.integers(0, 5),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_agrees_with_a_plain_loop(kind, losses, tolerance, level, seed):
  losses = np.array(losses)
  order = np.random.default_rng(seed).permutation(len(losses))
  history = capital_by_hand(losses[order], tolerance, kind, level)
  got = kind(level=level, seed=seed)(losses, tolerance)
  assert got == pytest.approx(1 / history.max(), rel=1e-6)
  # The capital at the end is never more convincing.
  assert got <= min(1.0, 1 / history[-1]) * (1 + 1e-6)


@pytest.mark.parametrize('kind', BOTH)
def test_many_samples_and_tolerances_at_once(kind):
  random = np.random.default_rng(0)
  losses = random.random((50, 4, 3)) * 0.3
  p_value = kind()
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
  monkeypatch.setattr(betting, '_COLUMNS_AT_ONCE', 5)
  assert np.array_equal(betting.Betting()(losses, 0.25), expected)


def test_it_aims_at_the_level_that_is_tested_unless_told_otherwise():
  for kind in BOTH:
    assert kind().aimed_at(0.01) == kind(level=0.01)
    assert kind(level=0.2).aimed_at(0.01) == kind(level=0.2)
    # Where nobody says anything, at the usual one.
    losses = np.random.default_rng(1).random(50) * 0.2
    assert kind()(losses, 0.2) == kind(level=0.05)(losses, 0.2)


def test_aiming_at_the_level_that_is_tested_finds_more():
  """Bets for 0.05 hardly ever reach 1 / 0.005; those aimed at it often do."""
  losses = 0.2 * np.random.default_rng(2).random((300, 400))
  found = {
    level: np.mean(betting.StarBets(level=level)(losses, 0.12) <= 0.005)
    for level in (0.05, 0.005)
  }
  assert found[0.05] < 0.1 and found[0.005] > 0.5


def test_star_bets_stop_at_their_level():
  """What they have is kept, and nothing more is won."""
  losses = np.zeros(1000)
  p = betting.StarBets(level=0.05)(losses, 0.1)
  # One bet beyond the target at most, which takes at most 0.99.
  assert 0.05 / 1.11 <= p <= 0.05
  ruinous = np.concatenate([np.zeros(200), np.ones(800)])
  certified = betting.Capital(
    betting.StarBets(level=0.05), np.array([0.1]), 1000
  )
  for loss in ruinous:
    certified.bet_on(np.array([loss]))
  assert certified.log_capital[0] == certified.log_greatest[0] >= math.log(20)


def test_star_bets_find_more_than_plain_ones():
  random = np.random.default_rng(4)
  for n in (100, 240):
    losses = random.random((n, 3000)) * (random.random((n, 3000)) < 0.12)
    plain, star = (np.mean(kind()(losses, 0.1) <= 0.05) for kind in BOTH)
    assert star > plain


@pytest.mark.parametrize('kind', BOTH)
@pytest.mark.parametrize('tolerance', [0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01])
def test_no_more_lossless_examples_than_hoeffding_bentkus(kind, tolerance):
  needed = math.ceil(math.log(0.05) / math.log(1 - tolerance))
  assert kind()(np.zeros(needed), tolerance) <= 0.05
  assert kind()(np.zeros(needed - 1), tolerance) > 0.05
  # Nor does a single loss of 1 ruin whoever bets.
  one = np.zeros(needed + 1)
  one[kind().order(needed + 1)[-1]] = 1.0
  capital = betting.Capital(kind(level=0.05), np.array([tolerance]), needed + 1)
  for loss in one[kind().order(needed + 1)]:
    capital.bet_on(np.array([loss]))
  assert np.isfinite(capital.log_capital).all()


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
  """Every bet is won, and is the greatest one allowed."""
  p_value = betting.Betting()
  p = p_value(np.zeros(1000), 0.1)
  # A thousand wins neither overflow nor give a p-value of exactly 0.
  factor = 1 + 0.99 * 0.1 / 0.9
  assert p == pytest.approx(factor**-1000) and 0.0 < p < 1e-30
  assert p_value(np.full(5, 1.0), 0.1) == 1.0


@pytest.mark.parametrize('kind', BOTH)
def test_a_sorted_sample_does_not_deceive(kind):
  """In the order of a sorted dump the small losses come first, and the capital
  is great before the large ones are seen: wrong far too often."""
  random = np.random.default_rng(11)
  n, draws, level, mean = 200, 600, 0.1, 0.1
  losses = np.sort(random.beta(0.5, 4.5, (n, draws)), axis=0)
  in_order = betting.Capital(kind(level=level), np.full(draws, mean), n)
  for row in losses:
    in_order.bet_on(row)
  assert np.mean(in_order.p_values() <= level) > 0.9
  shuffled = [kind(seed=seed)(losses[:, seed], mean) for seed in range(draws)]
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


@pytest.mark.parametrize('kind', BOTH)
@pytest.mark.parametrize(
  'knobs',
  [
    {'level': 0.0},
    {'level': math.nan},
    {'level': '0.1'},
    {'greatest_share': 1.0},
    {'seed': None},
    {'seed': -1},
    {'seed': 0.5},
    {'seed': True},
  ],
)
def test_knobs_out_of_range(kind, knobs):
  with pytest.raises(errors.ConfigError, match='must be') as info:
    kind(**knobs)
  (name,) = knobs
  assert info.value.args[0].startswith(f'{name} of {kind.__name__}')
