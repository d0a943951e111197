"""What a sample can certify: closed forms, and simulation."""

import math

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import betting, choices, p_values, power


def test_what_a_sample_can_certify_at_all():
  """Closed forms: (1 - d)^n <= e and exp(-2 n d^2) <= e."""
  smallest = power.smallest_certifiable_tolerance
  for n in (5, 20, 50, 1000):
    paper = smallest(n, 0.05, p_values.HoeffdingBentkus())
    assert paper == pytest.approx(1 - 0.05 ** (1 / n))
    assert smallest(n, 0.05, p_values.Hoeffding()) == pytest.approx(
      min(1.0, math.sqrt(math.log(20) / (2 * n)))
    )
  assert smallest(1, 0.05, p_values.Hoeffding()) == 1.0
  needed = power.smallest_certifying_num_examples
  for tolerance in (0.01, 0.1, 0.25):
    for p_value in (p_values.HoeffdingBentkus(), betting.StarBets()):
      assert needed(tolerance, 0.05, p_value) == math.ceil(
        math.log(0.05) / math.log(1 - tolerance)
      )
  assert [needed(d, 0.05) for d in (0.1, 0.02, 0.01)] == [29, 149, 299]
  with pytest.raises(errors.ConfigError, match='needs more than'):
    needed(1e-9, 0.05)
  with pytest.raises(errors.DataError, match='at least one example'):
    smallest(0, 0.05)


def test_no_loss_under_the_other_p_values():
  smallest = power.smallest_certifiable_tolerance
  for n in (29, 300):
    exact = smallest(n, 0.05, choices.P_VALUES['binomial'])
    assert exact == pytest.approx(1 - 0.05 ** (1 / n))
    bernstein = smallest(n, 0.05, choices.P_VALUES['empirical_bernstein'])
    expected = 7 * math.log(2 / 0.05) / (3 * (n - 1))
    assert bernstein == pytest.approx(min(1, expected))
    # Betting wins 1 + 0.99 d / (1 - d) or a little more with every example.
    share = 0.05 ** (-1 / n) - 1
    for name in ('betting', 'star_bets'):
      bets = smallest(n, 0.05, choices.P_VALUES[name])
      assert exact <= bets <= share / (0.99 + share) * (1 + 1e-9)


@pytest.mark.parametrize(
  'name', ['hoeffding_bentkus', 'binomial', 'betting', 'star_bets']
)
def test_the_number_is_the_smallest_that_certifies(name):
  p_value = choices.P_VALUES[name]
  for tolerance in (0.03, 0.2):
    n = power.smallest_certifying_num_examples(tolerance, 0.05, p_value)
    assert p_value(np.zeros(n), tolerance) <= 0.05
    assert p_value(np.zeros(n - 1), tolerance) > 0.05
