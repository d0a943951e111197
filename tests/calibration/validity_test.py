"""Every p-value is super-uniform under the null, at its boundary.

4,000 samples of losses whose expectation is exactly the tolerance: a p-value of
u or less may not come more often than u, but for the chance of the simulation
(three standard deviations of a binomial share). Seeded.
"""

import math

import numpy as np
import pytest
from testing import losses as made

from calm_jax.calibration import choices, loss_ranges

DRAWS = 4000
LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)
TOLERANCE = 0.1

SAMPLERS = {
  loss_ranges.UNIT: made.in_unit_interval(TOLERANCE),
  loss_ranges.SIGNED_UNIT: made.with_improvements(TOLERANCE),
  loss_ranges.AT_MOST_ONE: made.without_lower_bound(TOLERANCE),
}
SAMPLERS[loss_ranges.ZERO_OR_ONE] = {'coin': SAMPLERS[loss_ranges.UNIT]['coin']}
CASES = [
  (p_value, kind, name)
  for p_value in choices.P_VALUES
  for kind, samplers in SAMPLERS.items()
  for name in samplers
  if choices.P_VALUES[p_value].accepts.includes(kind)
]


@pytest.mark.parametrize('n', [5, 40, 300])
@pytest.mark.parametrize(
  ('p_value', 'kind', 'name'),
  CASES,
  ids=[f'{p_value}-{name}' for p_value, _, name in CASES],
)
def test_super_uniform_at_the_boundary_of_the_null(p_value, kind, name, n):
  random = np.random.default_rng([n, *name.encode()])
  sample = SAMPLERS[kind][name](random, (n, DRAWS))
  kind.checked(sample)
  p = choices.P_VALUES[p_value](sample, TOLERANCE)
  for level in LEVELS:
    sigma = math.sqrt(level * (1 - level) / DRAWS)
    assert np.mean(p <= level) <= level + 3 * sigma


@pytest.mark.parametrize(
  ('kind', 'name'),
  [(kind, name) for kind in SAMPLERS for name in SAMPLERS[kind]],
)
def test_the_samples_are_at_the_boundary(kind, name):
  """Else the test above would be too easy."""
  sample = SAMPLERS[kind][name](np.random.default_rng(0), (400_000,))
  error = sample.std() / math.sqrt(len(sample))
  assert abs(sample.mean() - TOLERANCE) <= 4 * error + 1e-12


def test_the_simulation_sees_an_invalid_p_value():
  """Hoeffding for [0, 1] on losses in [-1, 1], as public code has it.

  Three standard deviations are small against what it gets wrong.
  """
  random = np.random.default_rng(0)
  sample = SAMPLERS[loss_ranges.SIGNED_UNIT]['better, equal or worse'](
    random, (300, DRAWS)
  )
  p = choices.P_VALUES['hoeffding'].from_totals(
    sample.sum(axis=0), 300, TOLERANCE
  )
  assert np.mean(p <= 0.05) > 0.08
