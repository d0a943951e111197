import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.early_exit import schedule


def test_constant_threshold_ignores_the_position():
  thresholds = jnp.array([0.0, 0.3, 1.0])
  result = schedule.ConstantThreshold()(thresholds, 7, 10)
  np.testing.assert_array_equal(result, thresholds)


@pytest.mark.parametrize('position', [0, 3, 9])
def test_decaying_threshold_is_equation_5(position):
  # The public code multiplies the exponential by the threshold; the paper
  # does not: at position 0 and threshold 0.5 it starts at 0.55, not at 0.5.
  result = schedule.DecayingThreshold(temperature=4.0)(
    jnp.array([0.0, 0.5, 0.99]), position, 10
  )
  extra = 0.1 * np.exp(-4.0 * position / 10)
  expected = np.clip([extra, 0.45 + extra, 0.891 + extra], 0, 1)
  np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_decaying_threshold_of_one_stays_the_full_model():
  result = schedule.DecayingThreshold()(jnp.array([1.0]), 9, 10)
  np.testing.assert_array_equal(result, [1.0])


@pytest.mark.parametrize('temperature', [-1.0, 0.0, float('nan'), float('inf')])
def test_decaying_threshold_refuses_impossible_temperatures(temperature):
  with pytest.raises(errors.ConfigError, match='temperature'):
    schedule.DecayingThreshold(temperature=temperature)
