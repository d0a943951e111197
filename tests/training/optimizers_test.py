"""Schedules against numbers worked out by hand, Adafactor against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calm_jax import errors
from calm_jax.training import optimizers


@pytest.mark.parametrize(
  ('factors', 'options', 'values'),
  [
    ('constant', {}, {0: 0.5, 10**6: 0.5}),
    ('constant * linear_warmup', {}, {0: 1e-8, 250: 0.125, 4000: 0.5}),
    (
      'constant * linear_warmup * rsqrt_decay',
      {'base_learning_rate': 1.0, 'warmup_steps': 100},
      {50: 0.05, 100: 0.1, 400: 0.05, 10_000: 0.01},
    ),
    (
      'constant * rsqrt_decay',
      {'base_learning_rate': 1.0, 'warmup_steps': 10_000},
      {0: 0.01, 10_000: 0.01, 40_000: 0.005},
    ),
    (
      'constant * linear_warmup * rsqrt_normalized_decay',
      {'warmup_steps': 100},
      {50: 0.25, 100: 0.5, 400: 0.25},
    ),
    (
      'constant * decay_every',
      {'decay_factor': 0.1, 'steps_per_decay': 10},
      {9: 0.5, 10: 0.05, 25: 0.005},
    ),
    (
      'constant * cosine_decay',
      {'warmup_steps': 100, 'steps_per_cycle': 300},
      {0: 0.5, 100: 0.5, 200: 0.375, 250: 0.25, 399: 1.3707e-5, 400: 0.5},
    ),
    (
      'linear_decay',
      {'warmup_steps': 100, 'decay_factor': 1 / 128},
      {50: 0.25, 100: 0.5, 164: 0.25, 228: 1e-8, 300: 1e-8},
    ),
    (
      'constant * linear_warmup',
      {'warmup_steps': 100, 'step_offset': 1000},
      {900: 1e-8, 1050: 0.25, 1100: 0.5},
    ),
    (
      'constant * linear_cooldown',
      {'cooldown_start': 40, 'cooldown_steps': 20},
      {0: 0.5, 40: 0.5, 45: 0.375, 55: 0.125, 60: 1e-8, 99: 1e-8},
    ),
    ('constant', {'base_learning_rate': 0, 'min_learning_rate': 0.1}, {5: 0.1}),
  ],
)
def test_schedule_values(factors, options, values):
  schedule = optimizers.create_learning_rate_scheduler(factors, **options)
  for step, value in values.items():
    np.testing.assert_allclose(schedule(step), value, rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(
      jax.jit(schedule)(jnp.int32(step)), value, rtol=1e-3, atol=1e-10
    )


def test_unknown_factor_names_the_nearest():
  with pytest.raises(errors.ConfigError, match="Did you mean 'rsqrt_decay'"):
    optimizers.create_learning_rate_scheduler('constant * rsqrt_deca')


def adafactor_by_hand(param, gradients, learning_rates, step_offset=0):
  """Shazeer & Stern 2018, with T5's constants, in float64."""
  param = param.astype(np.float64)
  factored = param.ndim == 2 and min(param.shape) >= 128
  second = rows = columns = 0.0
  for t, (gradient, rate) in enumerate(
    zip(gradients, learning_rates, strict=True)
  ):
    decay = 1 - (t - step_offset + 1.0) ** -0.8
    squared = gradient.astype(np.float64) ** 2 + 1e-30
    if factored:
      rows = decay * rows + (1 - decay) * squared.mean(axis=1)
      columns = decay * columns + (1 - decay) * squared.mean(axis=0)
      second = np.outer(rows, columns) / rows.mean()
    else:
      second = decay * second + (1 - decay) * squared
    update = gradient / np.sqrt(second)
    update /= max(1.0, np.sqrt(np.mean(update**2)))
    param -= rate * max(np.sqrt(np.mean(param**2)), 1e-3) * update
  return param


@pytest.mark.parametrize(
  ('shape', 'scale', 'step_offset'),
  [
    ((7,), 1.0, 0),
    ((5, 6), 1e-5, 0),
    ((128, 130), 0.3, 0),
    ((7,), 1.0, -1000),
  ],
)
def test_adafactor_equals_numpy(shape, scale, step_offset):
  rng = np.random.default_rng(0)
  param = (scale * rng.normal(size=shape)).astype(np.float32)
  gradients = rng.normal(size=(6, *shape)).astype(np.float32)
  gradients[3] *= 30  # Its update is clipped.
  schedule = optimizers.create_learning_rate_scheduler(
    'constant * linear_warmup', base_learning_rate=0.1, warmup_steps=3
  )
  optimizer = optimizers.adafactor(schedule, step_offset=step_offset)
  actual, state = param, optimizer.transformation.init(param)
  for gradient in gradients:
    updates, state = optimizer.transformation.update(gradient, state, actual)
    actual = optax.apply_updates(actual, updates)
  rates = [float(optimizer.learning_rate_fn(t)) for t in range(6)]
  expected = adafactor_by_hand(param, gradients, rates, step_offset)
  assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(
    param - expected
  )


def test_adafactor_says_how_its_accumulators_start():
  message = optimizers.adafactor(step_offset=-1_000_000).start_message
  assert '(step + 1,000,001)^-0.8' in message and '-1,000,000' in message
  assert 'step_offset 0' in optimizers.adafactor().start_message
  with pytest.raises(errors.ConfigError, match='at most 0'):
    optimizers.adafactor(step_offset=1_000_000)


def test_adafactor_keeps_no_full_second_moment_of_large_kernels():
  state = optimizers.adafactor().transformation.init(jnp.ones((256, 512)))
  assert max(x.size for x in jax.tree.leaves(state)) == 512


def test_number_as_learning_rate_is_constant():
  optimizer = optimizers.adafactor(2e-3)
  assert optimizer.learning_rate_fn(0) == optimizer.learning_rate_fn(99) == 2e-3


def test_adamw_clips_the_global_norm():
  params = {'a': jnp.ones(3), 'b': jnp.ones(2)}
  huge = jax.tree.map(lambda x: 1e6 * x, params)
  norm = 1e6 * np.sqrt(5)
  clipped = jax.tree.map(lambda x: x / norm, huge)
  free = optimizers.adamw(0.1, global_norm_clip_threshold=None).transformation
  clip = optimizers.adamw(0.1, global_norm_clip_threshold=1.0).transformation
  _, state = clip.update(huge, clip.init(params), params)
  _, expected = free.update(clipped, free.init(params), params)
  for a, e in zip(
    jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, e, rtol=1e-6)
