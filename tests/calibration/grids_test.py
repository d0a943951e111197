"""Which order thresholds are tested in, and which losses go with them."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from calm_jax import errors
from calm_jax.calibration import grids, loss_ranges


@hypothesis.given(
  thresholds=st.lists(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=9
  )
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
def test_sorted_once_and_each_once(thresholds):
  grid = grids.sort_thresholds(thresholds)
  assert grid.thresholds.tolist() == sorted(set(thresholds), reverse=True)
  assert [thresholds[i] for i in grid.columns] == grid.thresholds.tolist()
  in_order = thresholds == grid.thresholds.tolist()
  assert (grid.warning == '') == in_order
  # The losses of a threshold stay with it; at 1 they are 0.
  losses = np.array([[1.0 - value for value in thresholds]] * 3)
  got = grids.sort_losses(losses, thresholds, grid, loss_ranges.UNIT, None)
  assert got[0].tolist() == [1.0 - value for value in grid.thresholds]


@pytest.mark.parametrize(
  'thresholds', [[], [[1.0]], None, ['a'], [1.0, np.nan], [2.0], [-1e-9]]
)
def test_no_grid(thresholds):
  with pytest.raises(errors.ConfigError, match='hresholds'):
    grids.sort_thresholds(thresholds)
