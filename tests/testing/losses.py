"""Random losses whose mean is known, for tests of validity and power."""

from collections.abc import Callable

import numpy as np

Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def in_unit_interval(mean: float) -> dict[str, Sampler]:
  """Losses in [0, 1] of that mean (at most 1/4)."""
  rare = mean / (2.0 - mean)  # share of 1 among losses of mean / 2
  return {
    'coin': lambda random, shape: (random.random(shape) < mean).astype(float),
    'uniform': lambda random, shape: random.random(shape) * 2 * mean,
    'beta': lambda random, shape: random.beta(0.5, 0.5 / mean - 0.5, shape),
    'rare and large': lambda random, shape: np.where(
      random.random(shape) < rare, 1.0, mean / 2.0
    ),
    'rare and moderate': lambda random, shape: (
      0.5 * (random.random(shape) < 2 * mean)
    ),
    'mostly none, else any': lambda random, shape: (
      random.random(shape) * (random.random(shape) < 2 * mean)
    ),
    'constant': lambda random, shape: np.full(shape, mean),
  }


def with_improvements(mean: float) -> dict[str, Sampler]:
  """Losses in [-1, 1] of that mean, as differences of two scores."""
  worse = 0.5
  return {
    'better, equal or worse': lambda random, shape: random.choice(
      [-1.0, 0.0, 1.0], shape, p=[worse - mean, 1.0 - 2 * worse + mean, worse]
    ),
    'difference of uniforms': lambda random, shape: (
      mean + (1.0 - mean) * 0.5 * (random.random(shape) - random.random(shape))
    ),
    'rare and large': lambda random, shape: np.where(
      random.random(shape) < 0.02, 1.0, (mean - 0.02) / 0.98
    ),
  }


def without_lower_bound(mean: float) -> dict[str, Sampler]:
  """Losses of at most 1 of that mean; their negative tails never end."""
  return {
    'exponential tail': lambda random, shape: (
      1.0 - random.exponential(1.0 - mean, shape)
    ),
    'heavy tail': lambda random, shape: (
      1.0 - (1.0 - mean) * 1.5 * random.pareto(2.5, shape)
    ),
  }
