import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.early_exit.engine import schedule


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


@pytest.mark.parametrize('position', [0, 3, 9])
def test_t5x_decay_multiplies_the_exponential_by_the_threshold(position):
  # CALM Eq. 5 does not: at position 0 and threshold 0.5 it starts at 0.55.
  result = schedule.T5xDecayingThreshold(temperature=4.0)(
    jnp.array([0.0, 0.5, 1.0]), position, 10
  )
  decayed = 0.5 * (0.9 + 0.1 * np.exp(-4.0 * position / 10))
  np.testing.assert_allclose(result, [0.0, decayed, 1.0], rtol=1e-6)


def test_the_decay_depends_on_the_position():
  # T5X's release never passes the position: its decay does nothing.
  for kind in (schedule.DecayingThreshold, schedule.T5xDecayingThreshold):
    early, late = (kind()(jnp.array([0.5]), t, 10)[0] for t in (0, 9))
    assert early > late + 0.04


@pytest.mark.parametrize(
  'kwargs, expected',
  [
    ({}, (1, 2, 3, 4, 5, 6, 7, 8)),
    ({'first_exit': 3}, (3, 4, 5, 6, 7, 8)),
    ({'exit_interval': 3}, (1, 4, 7, 8)),
    ({'first_exit': 2, 'exit_interval': 2}, (2, 4, 6, 8)),
    ({'first_exit': 2, 'exit_interval': 2, 'min_exit': 5}, (6, 8)),
    ({'min_exit': 8}, (8,)),
    ({'first_exit': 8}, (8,)),
  ],
)
def test_exit_layers_by_hand(kwargs, expected):
  assert schedule.ExitLayers(**kwargs).layers(8) == expected


@pytest.mark.parametrize('name', ['first_exit', 'min_exit'])
def test_exits_beyond_the_last_layer_are_refused(name):
  # T5X loops forever where min_exit is beyond the last layer.
  with pytest.raises(errors.ConfigError, match='at most 8'):
    schedule.ExitLayers(**{name: 9}).layers(8)


@pytest.mark.parametrize(
  'kwargs', [{'first_exit': 0}, {'exit_interval': 0}, {'min_exit': -1},
             {'first_exit': 1.5}, {'exit_interval': True}],
)  # fmt: skip
def test_impossible_exit_layers_are_refused(kwargs):
  with pytest.raises(errors.ConfigError, match='must be an integer'):
    schedule.ExitLayers(**kwargs)
