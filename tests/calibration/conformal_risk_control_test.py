"""Conformal risk control by its definition; `simulation_test` has its proof."""

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import conformal_risk_control

CONTROL = conformal_risk_control.ConformalRiskControl()


def chosen_by_hand(losses, tolerance):
  """Walks down the grid with the definition of the theorem."""
  n, chosen = len(losses), []
  worst = [0.0] * n
  for column in losses.T:
    worst = [max(a, b) for a, b in zip(worst, column, strict=True)]
    chosen.append((sum(worst) + 1) / (n + 1) <= tolerance)
  return chosen


def test_definition_and_many_grids_at_once():
  random = np.random.default_rng(0)
  losses = np.clip(random.normal(0.05, 0.1, (40, 6, 7)), -1, 1)
  got = CONTROL(losses, 0.2)
  assert got.shape == (6, 7) and 0 < got.sum() < got.size
  for i in range(6):
    assert got[i].tolist() == chosen_by_hand(losses[:, i], 0.2)
  totals = conformal_risk_control.monotone_losses(losses).sum(axis=0)
  assert np.array_equal(CONTROL.from_totals(totals, 40, 0.2), got)


def test_monotone_losses():
  losses = np.array([[0.1, 0.0, 0.3], [-0.5, 0.2, -1.0]])
  monotone = conformal_risk_control.monotone_losses(losses)
  assert monotone.tolist() == [[0.1, 0.1, 0.3], [0.0, 0.2, 0.2]]


def test_what_is_chosen_is_a_beginning_of_the_grid():
  losses = np.random.default_rng(1).random((30, 50, 20)) ** 8
  chosen = CONTROL(losses, 0.25)
  assert not (np.diff(chosen.astype(int), axis=-1) > 0).any()


@pytest.mark.parametrize('tolerance', [0.5, 0.1, 0.07, 1 / 49, 0.001])
def test_the_number_of_examples_it_needs(tolerance):
  needed = next(
    n for n in range(1, 2000) if CONTROL(np.zeros((n, 1)), tolerance).all()
  )
  assert CONTROL.warning(needed, tolerance) == ''
  if needed > 1:
    warning = CONTROL.warning(needed - 1, tolerance)
    assert f'at least {needed} examples' in warning
    assert f'at least {1 / needed:.4g}' in warning


@pytest.mark.parametrize('shape', [(0, 3), (4,)])
def test_no_losses(shape):
  with pytest.raises(errors.DataError, match='at least one example'):
    CONTROL(np.zeros(shape), 0.1)
