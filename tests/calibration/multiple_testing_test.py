"""Testing procedures against their definitions, row by row."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calm_jax import errors
from calm_jax.calibration import multiple_testing

PROCEDURES = [
  multiple_testing.FixedSequence(),
  multiple_testing.MultiStartFixedSequence(),
  multiple_testing.MultiStartFixedSequence(num_starts=3),
  multiple_testing.Bonferroni(),
  multiple_testing.Holm(),
]
ROWS = st.integers(1, 12).flatmap(
  lambda size: st.lists(
    # Few values, so that many are tied and many pass.
    st.sampled_from([0.0, 0.001, 0.004, 0.01, 0.02, 0.05, 0.2, 1.0]),
    min_size=size,
    max_size=size,
  )
)


def run(procedure, p_values, failure_prob=0.05):
  return procedure(np.array(p_values), failure_prob).tolist()


def sequence_by_hand(p_values, level):
  rejected = [False] * len(p_values)
  for position, p_value in enumerate(p_values):
    if p_value > level:
      break
    rejected[position] = True
  return rejected


def multi_start_by_hand(p_values, num_starts, failure_prob):
  size = len(p_values)
  count = min(num_starts, size)
  starts = {i * size // count for i in range(count)}
  rejected = [False] * size
  for start in starts:
    chain = sequence_by_hand(p_values[start:], failure_prob / len(starts))
    for position, passed in enumerate(chain, start):
      rejected[position] |= passed
  return rejected


def holm_by_hand(p_values, failure_prob):
  """The closed test of Bonferroni: a hypothesis falls if every set of
  hypotheses that holds it is rejected by Bonferroni."""
  size = len(p_values)
  rejected = []
  for position in range(size):
    others = [p for i, p in enumerate(p_values) if i != position]
    rejected.append(
      all(
        min([p_values[position], *chosen]) <= failure_prob / (count + 1)
        for count in range(size)
        # Of all sets of one size the one of the largest is the hardest.
        for chosen in [sorted(others, reverse=True)[:count]]
      )
    )
  return rejected


@hypothesis.given(p_values=ROWS)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_definitions(p_values):
  level = 0.05
  assert run(PROCEDURES[0], p_values) == sequence_by_hand(p_values, level)
  for procedure in PROCEDURES[1:3]:
    assert run(procedure, p_values) == multi_start_by_hand(
      p_values, procedure.num_starts, level
    )
  assert run(PROCEDURES[3], p_values) == [
    p * len(p_values) <= level for p in p_values
  ]
  assert run(PROCEDURES[4], p_values) == holm_by_hand(p_values, level)


def test_examples():
  fixed, multi, _, bonferroni, holm = PROCEDURES
  p_values = [0.0, 0.05, 0.050001, 0.0]
  assert run(fixed, p_values) == [True, True, False, False]
  # Four starts at 0.0125 each: the chains of the second and third fail at once.
  assert run(multi, p_values) == [True, False, False, True]
  assert run(fixed, [0.2, 0.0]) == [False, False]
  # 0.05 / 4 = 0.0125, then 0.05 / 3 = 0.0167 for the second smallest.
  p_values = [0.015, 0.012, 0.03, 0.2]
  assert run(bonferroni, p_values) == [False, True, False, False]
  assert run(holm, p_values) == [True, True, False, False]


@pytest.mark.parametrize('procedure', PROCEDURES, ids=repr)
def test_many_grids_at_once(procedure):
  p_values = np.random.default_rng(0).random((3, 5, 7)) ** 6
  together = procedure(p_values, 0.05)
  assert together.shape == p_values.shape
  assert 0 < together.sum() < together.size
  for i, j in itertools.product(range(3), range(5)):
    assert np.array_equal(together[i, j], procedure(p_values[i, j], 0.05))
  assert procedure(np.zeros((2, 0)), 0.05).shape == (2, 0)


@pytest.mark.parametrize('procedure', PROCEDURES, ids=repr)
def test_the_first_level_is_what_a_first_rejection_needs(procedure):
  for size in (1, 3, 9):
    level = procedure.first_level(0.05, size)
    for p_value, passes in ((level, True), (np.nextafter(level, 1), False)):
      row = np.ones(size)
      row[0] = p_value
      assert procedure(row, 0.05).any() == passes


@pytest.mark.parametrize('num_starts', [1, 2, 3, 4, 12, 105, 300])
def test_the_starts_share_the_failure_probability_whole(num_starts):
  """As many starts as asked for, where the grid is long enough, each once."""
  procedure = multiple_testing.MultiStartFixedSequence(num_starts)
  for size in (1, 2, 39, 105):
    starts = procedure.starts(size)
    assert len(starts) == len(set(starts.tolist())) == min(num_starts, size)
    assert starts[0] == 0 and starts.max() < size
    level = procedure.first_level(0.05, size)
    assert level * len(starts) == pytest.approx(0.05)


@pytest.mark.parametrize('procedure', PROCEDURES, ids=repr)
@pytest.mark.parametrize('bad', [np.nan, -0.1, 1.1])
def test_refuses_what_is_no_p_value(procedure, bad):
  with pytest.raises(errors.DataError, match='p-values must be'):
    run(procedure, [0.01, bad])


def test_no_starts():
  with pytest.raises(errors.ConfigError, match='at least 1, got 0'):
    multiple_testing.MultiStartFixedSequence(num_starts=0)
