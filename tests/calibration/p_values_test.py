"""p-values of the sum: closed forms by a second route, and exact validity.

`validity_test` has the simulations, of all p-values.
"""

import fractions
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import p_values

# For losses anywhere in [0, 1].
ALL = [
  p_values.Hoeffding(),
  p_values.ChernoffHoeffding(),
  p_values.Bentkus(),
  p_values.HoeffdingBentkus(),
]
TOLERANCES = st.floats(0.01, 0.99)
COUNTS = st.integers(1, 60).flatmap(
  lambda n: st.tuples(st.just(n), st.integers(0, n))
)


def losses_of(ones, n):
  return np.repeat([1.0, 0.0], [ones, n - ones])


def kl_by_hand(a, b):
  first = a * math.log(a / b) if a > 0 else 0.0
  second = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
  return first + second


def binomial_cdf_by_hand(k, n, p):
  """Exact rational arithmetic, rounded once."""
  p = fractions.Fraction(p)
  terms = (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
  return float(sum(terms))


@hypothesis.given(counts=COUNTS, tolerance=TOLERANCES)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_closed_forms(counts, tolerance):
  n, ones = counts
  losses, mean = losses_of(ones, n), ones / n
  hoeffding = math.exp(-2 * n * max(0.0, tolerance - mean) ** 2)
  chernoff = math.exp(-n * kl_by_hand(min(mean, tolerance), tolerance))
  cdf = binomial_cdf_by_hand(ones, n, tolerance)
  bentkus = min(1.0, math.e * cdf)
  expected = [hoeffding, chernoff, bentkus, min(chernoff, bentkus)]
  got = [p_value(losses, tolerance) for p_value in ALL]
  np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-300)
  # The third route, to which the issue of float error does not apply.
  assert cdf == pytest.approx(
    stats.binom.cdf(ones, n, tolerance), rel=1e-9, abs=1e-300
  )


@pytest.mark.parametrize('p_value', ALL, ids=repr)
def test_no_loss_and_a_mean_at_or_above_the_tolerance(p_value):
  n, tolerance = 40, 0.1
  exact = {
    'Hoeffding()': math.exp(-2 * n * tolerance**2),
    'ChernoffHoeffding()': (1 - tolerance) ** n,
    'Bentkus()': math.e * (1 - tolerance) ** n,
    'HoeffdingBentkus()': (1 - tolerance) ** n,
  }
  assert p_value(np.zeros(n), tolerance) == pytest.approx(exact[repr(p_value)])
  for ones in (4, 5, 40):
    assert p_value(losses_of(ones, n), tolerance) == 1.0
  assert p_value(np.full(7, 0.3), 0.3) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize('p_value', ALL, ids=repr)
@hypothesis.given(
  losses=st.lists(st.floats(0, 1), min_size=1, max_size=30),
  tolerance=TOLERANCES,
  position=st.integers(0, 29),
  larger=st.floats(0, 1),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
def test_monotone(p_value, losses, tolerance, position, larger):
  losses = np.array(losses)
  p = p_value(losses, tolerance)
  assert 0.0 <= p <= 1.0
  # Worse in one example: not more convincing.
  worse = losses.copy()
  worse[position % len(losses)] = max(worse[position % len(losses)], larger)
  assert p_value(worse, tolerance) >= p * (1 - 1e-9)
  # A more generous tolerance: at least as convincing.
  assert p_value(losses, min(tolerance * 1.1, 0.995)) <= p * (1 + 1e-9)
  assert p == pytest.approx(p_value(losses[::-1], tolerance), rel=1e-9)


def test_each_is_tighter_than_the_one_it_refines():
  for ones in range(30):
    losses = losses_of(ones, 300)
    hoeffding, chernoff, bentkus, both = (p(losses, 0.1) for p in ALL)
    assert both == min(chernoff, bentkus)
    assert chernoff <= hoeffding
  # Each of the two wins somewhere.
  assert ALL[2](losses_of(9, 300), 0.1) < ALL[1](losses_of(9, 300), 0.1)
  assert ALL[1](losses_of(0, 300), 0.1) < ALL[2](losses_of(0, 300), 0.1)


def test_the_count_does_not_overshoot():
  """ceil(n * mean) of floats is one too many for 25 * (7 / 25)."""
  assert math.ceil(25 * (7 / 25)) == 8
  bentkus = p_values.Bentkus()
  for n in range(1, 200):
    ones = np.arange(n + 1)
    # Spread over equal losses whose floats are not exact.
    losses = np.broadcast_to(ones / n, (n, n + 1))
    expected = np.minimum(1, np.e * stats.binom.cdf(ones, n, 0.3))
    np.testing.assert_allclose(bentkus(losses, 0.3), expected, rtol=1e-9)
  # What is above the integer for real does count.
  assert bentkus(np.array([1.0, 1e-6, 0.0]), 0.3) == pytest.approx(
    min(1, math.e * stats.binom.cdf(2, 3, 0.3))
  )


@pytest.mark.parametrize('p_value', ALL, ids=repr)
def test_many_samples_at_once(p_value):
  losses = np.random.default_rng(0).random((50, 4, 3))
  together = p_value(losses * 0.3, 0.25)
  assert together.shape == (4, 3)
  for i, j in np.ndindex(4, 3):
    assert together[i, j] == pytest.approx(p_value(losses[:, i, j] * 0.3, 0.25))


@pytest.mark.parametrize('p_value', ALL, ids=repr)
@pytest.mark.parametrize('bad', [np.nan, np.inf, -0.1, 1.01])
def test_losses_outside_0_1_are_refused(p_value, bad):
  with pytest.raises(errors.DataError, match=r'finite and in \[0, 1\]'):
    p_value(np.array([0.1, bad]), 0.2)
  with pytest.raises(errors.DataError, match='at least one loss'):
    p_value(np.array([]), 0.2)


@hypothesis.given(counts=COUNTS, tolerance=TOLERANCES)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
def test_binomial_is_the_exact_tail(counts, tolerance):
  n, ones = counts
  exact = p_values.Binomial()(losses_of(ones, n), tolerance)
  assert exact == pytest.approx(
    binomial_cdf_by_hand(ones, n, tolerance), rel=1e-9, abs=1e-300
  )
  # Nothing valid for all losses can beat it on losses of 0 and 1.
  for p_value in ALL:
    assert p_value(losses_of(ones, n), tolerance) >= exact * (1 - 1e-9)


def test_binomial_refuses_losses_between_0_and_1():
  losses = np.array([0.0, 1.0, 0.25])
  with pytest.raises(errors.DataError, match='0 or 1.*0.25 of example row 2'):
    p_values.Binomial()(losses, 0.1)
  with pytest.raises(errors.DataError, match='whole number, got a sum of'):
    p_values.Binomial().from_totals(np.array([3.0, 2.5]), 10, 0.1)
  # A sum that rounding moved is still whole.
  totals = np.array([3.0 + 4e-10])
  assert p_values.Binomial().from_totals(totals, 10, 0.1) == pytest.approx(
    stats.binom.cdf(3, 10, 0.1)
  )


def test_many_tolerances_at_once():
  """Arrays of tolerances broadcast against the samples."""
  random = np.random.default_rng(5)
  losses = random.random((60, 4)) * 0.3
  tolerances = np.array([0.1, 0.2, 0.4])
  for p_value in ALL:
    table = p_value(losses[..., None], tolerances)
    assert table.shape == (4, 3)
    for i, j in np.ndindex(4, 3):
      expected = p_value(losses[:, i], tolerances[j])
      assert table[i, j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('p_value', [*ALL, p_values.Binomial()], ids=repr)
@pytest.mark.parametrize('tolerance', [0.02, 0.1, 0.37, 0.5])
def test_exactly_valid_for_coins_at_the_tolerance(p_value, tolerance):
  """No simulation: sums the binomial weights of all rejecting samples."""
  for n in (1, 2, 7, 30, 101, 500):
    ones = np.arange(n + 1)
    p = p_value.from_totals(ones, n, tolerance)
    weights = stats.binom.pmf(ones, n, tolerance)
    # The probability of a p-value at most that of each outcome.
    for level in p[p < 1]:
      assert weights[p <= level].sum() <= level * (1 + 1e-9)
