"""What a sample can certify: closed forms, and simulation."""

import math

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import choices, p_values, power


def test_what_a_sample_can_certify_at_all():
  """Closed forms: (1 - d)^n <= e and exp(-2 n d^2) <= e."""
  smallest = power.smallest_certifiable_tolerance
  for n in (5, 20, 50, 1000):
    assert smallest(n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n))
    assert smallest(n, 0.05, p_values.Hoeffding()) == pytest.approx(
      min(1.0, math.sqrt(math.log(20) / (2 * n)))
    )
  assert smallest(1, 0.05, p_values.Hoeffding()) == 1.0
  needed = power.smallest_certifying_num_examples
  for tolerance in (0.01, 0.1, 0.25):
    assert needed(tolerance, 0.05) == math.ceil(
      math.log(0.05) / math.log(1 - tolerance)
    )
  assert needed(0.1, 0.05) == 29
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
    # Betting wins at most 1 + 0.75 d / (1 - d) per example.
    betting = smallest(n, 0.05, choices.P_VALUES['betting'])
    share = 0.05 ** (-1 / n) - 1
    assert share / (0.75 + share) <= betting < 1.4 * share / (0.75 + share)


@pytest.mark.parametrize('name', ['hoeffding_bentkus', 'binomial', 'betting'])
def test_the_number_is_the_smallest_that_certifies(name):
  p_value = choices.P_VALUES[name]
  for tolerance in (0.03, 0.2):
    n = power.smallest_certifying_num_examples(tolerance, 0.05, p_value)
    assert p_value(np.zeros(n), tolerance) <= 0.05
    assert p_value(np.zeros(n - 1), tolerance) > 0.05
