"""Defects of public calibration code, and that ours differs in each.

Each test is named after the code and what it does wrong, and shows both: the
number that the public rule gives, written out here, and ours.
"""

import dataclasses
import math

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  from_dump,
  loss_ranges,
  multiple_testing,
  p_values,
  power,
  risks,
  threshold_selection,
)
from calm_jax.evaluation import checks

HOEFFDING = p_values.Hoeffding()
THRESHOLDS = [1.0, 0.9, 0.8, 0.7]


def losses_with_means(n, *means):
  """[n, G] losses of 0 and 1 with exactly these means."""
  return (np.arange(n)[:, None] < np.round(n * np.array(means))).astype(float)


# --- DL2-CALM, model_calibration.py -------------------------------------------


def test_dl2_calm_1_takes_a_corpus_score_for_a_mean_of_losses():
  """Ours takes one loss per example and refuses one for the corpus."""
  with pytest.raises(errors.DataError, match='at least one example, 4 thr'):
    threshold_selection.calibrate(
      np.array([0.0, 0.1, 0.2, 0.3]), THRESHOLDS, 0.1, 0.05
    )


def test_dl2_calm_2_clips_after_the_mean():
  """max(0, mean difference) is never larger than the mean of the clipped
  losses, so it certifies what it should not."""

  def metric(prediction, reference):
    return float(prediction)

  full, early = [0.5] * 400, [0.9] * 200 + [0.2] * 200
  predictions = np.array([full, early]).T.astype(str)
  references = np.array([''] * 400)
  losses = risks.RiskConsistency(metric).losses(predictions, references)
  after_the_mean = max(0.0, float(np.mean(full)) - float(np.mean(early)))
  assert after_the_mean == 0.0
  assert losses[:, 1].mean() == pytest.approx(0.15)
  assert HOEFFDING.from_totals(0.0, 400, 0.1) < 0.05
  assert HOEFFDING(losses[:, 1], 0.1) == 1.0


def test_dl2_calm_2_uses_hoeffding_on_differences_in_minus_1_to_1():
  """There the exponent is four times too large; ours refuses."""
  random = np.random.default_rng(0)
  # Of mean 0.1 exactly: certifying a tolerance of 0.1 is an error.
  losses = random.choice([-1.0, 0.0, 1.0], (400, 4000), p=[0.4, 0.1, 0.5])
  p = HOEFFDING.from_totals(losses.sum(axis=0), 400, 0.1)
  assert np.mean(p <= 0.05) > 0.08
  with pytest.raises(errors.ConfigError, match=r'in \[-1, 1\]'):
    threshold_selection.calibrate(
      losses,
      [0.5] * 4000,
      0.1,
      0.05,
      HOEFFDING,
      loss_range=loss_ranges.SIGNED_UNIT,
    )
  with pytest.raises(errors.DataError, match=r'in \[0, 1\]'):
    HOEFFDING(losses, 0.1)


def test_dl2_calm_3_reports_the_metrics_of_the_rejected_threshold():
  """Ours: what the record holds at the threshold passed the test itself."""
  result = from_dump.calibrate_dump(dumps.make_dump(200), 'textual', 0.2, 0.05)
  (point,) = [x for x in result.grid if x.threshold == result.threshold]
  rejected = result.grid[result.grid.index(point) + 1]
  assert point.certified and point.p_value <= 0.05
  assert point.mean_loss == pytest.approx(0.05) and point.mean_layers == 2.0
  assert not rejected.certified and rejected.mean_loss == 1.0


def test_dl2_calm_4_evaluates_on_the_calibration_examples():
  manifest, data = dumps.make_dump(200)
  result = from_dump.calibrate_dump((manifest, data), 'textual', 0.2, 0.05)
  with pytest.raises(errors.DataError, match='another split'):
    checks.check_other_split(manifest, result)
  with pytest.raises(errors.DataError, match='were used for the calibration'):
    checks.check_unseen(data, result, manifest, data)


@pytest.mark.parametrize(
  ('n', 'smallest'),
  [(5, 0.547), (10, 0.387), (15, 0.316), (20, 0.274), (25, 0.245)]
  + [(35, 0.207), (50, 0.173)],
)
def test_dl2_calm_5_samples_that_forbid_any_exit(n, smallest):
  """Its finding that "the tolerance must be above 0.2" is its sample size."""
  got = power.smallest_certifiable_tolerance(n, 0.05, HOEFFDING)
  assert got == pytest.approx(smallest, abs=6e-4)
  warning = power.warning(n, 0.15, 0.05, HOEFFDING)
  needed = math.ceil(math.log(20) / (2 * 0.15**2))
  assert f'use at least {needed} examples' in warning
  # The same sample certifies more by a better bound.
  assert power.smallest_certifiable_tolerance(n, 0.05) < got


# --- RC-EENN ------------------------------------------------------------------


def test_rc_eenn_returns_the_first_failing_index():
  """And -1, the lowest threshold of all, where every one passes."""
  losses = losses_with_means(400, 0, 0.02, 0.05, 0.5)
  outcome = threshold_selection.calibrate(
    losses, THRESHOLDS, 0.1, 0.05, 'binomial'
  )
  first_failing = THRESHOLDS[int(np.argmax(outcome.p_values > 0.05))]
  assert first_failing == 0.7 and outcome.threshold == 0.8
  assert outcome.mean_losses[THRESHOLDS.index(0.8)] == pytest.approx(0.05)
  everything = threshold_selection.calibrate(
    losses_with_means(400, 0, 0, 0, 0), THRESHOLDS, 0.1, 0.05
  )
  assert everything.threshold == 0.7
  nothing = threshold_selection.calibrate(
    losses_with_means(400, 0, 0.5, 0.5, 0.5), THRESHOLDS, 0.1, 0.05
  )
  assert nothing.threshold == 1.0


def test_rc_eenn_crc_takes_the_lowest_threshold_anywhere():
  """Where the risk is not monotone, that is after one that failed."""
  losses = losses_with_means(400, 0, 0.3, 0.02, 0.5)
  n, bound = len(losses), 1.0
  limit = ((n + 1) * 0.1 - bound) / n
  anywhere = int(np.flatnonzero(losses.mean(axis=0) <= limit).max())
  assert THRESHOLDS[anywhere] == 0.8
  chosen = conformal_risk_control.ConformalRiskControl()(losses, 0.1)
  assert chosen.tolist() == [True, False, False, False]


@pytest.mark.filterwarnings('error')
def test_rc_eenn_kl_is_nan_at_zero_risk():
  """And in ltt; 0 log 0 is 0, so p = (1 - d)^n."""
  with np.errstate(all='raise'):
    p = p_values.ChernoffHoeffding()(np.zeros(40), 0.1)
  assert p == pytest.approx(0.9**40)
  assert not np.isfinite(0.0 * -np.inf)  # what the plain formula computes


def test_rc_eenn_wsr_takes_one_fixed_upper_bound_for_granted():
  """Losses above 1 are refused, not clipped or trusted."""
  with pytest.raises(errors.DataError, match='at most 1.*1.5 of example row 1'):
    threshold_selection.calibrate(
      np.array([[0.0, 0.2], [0.0, 1.5]]),
      [1.0, 0.5],
      0.1,
      0.05,
      choices.P_VALUES['betting'],
    )


def test_rc_eenn_takes_a_model_that_exits_early_for_the_full_one():
  """Its losses are relative to a row of 14.88 of 24 layers."""
  _, data = dumps.make_dump(40)
  used = data.num_layers_used.copy()
  used[7, 0] = 3
  with pytest.raises(errors.DataError, match='must use all 4 layers.* id-7'):
    dataclasses.replace(data, num_layers_used=used)


# --- ltt ----------------------------------------------------------------------


def test_ltt_bonferroni_is_holm():
  p_values_ = np.array([0.01, 0.02, 0.2])
  assert multiple_testing.Holm()(p_values_, 0.05).tolist() == [
    True,
    True,
    False,
  ]
  bonferroni = multiple_testing.Bonferroni()(p_values_, 0.05)
  assert bonferroni.tolist() == [True, False, False]


@pytest.mark.parametrize(
  ('size', 'step', 'public_starts'), [(105, 10, 12), (105, 105, 2)]
)
def test_ltt_bonferroni_search_splits_over_the_wrong_number(
  size, step, public_starts
):
  """delta / floor(N / d) on up to ceil(N / d) + 1 starts: up to 2 delta."""
  spent = public_starts * 0.1 / (size // step)
  assert spent > 0.1
  ours = multiple_testing.MultiStartFixedSequence(public_starts)
  level = ours.first_level(0.1, size)
  assert level * len(ours.starts(size)) == pytest.approx(0.1)
  # At its level a chain would be begun that ours does not begin.
  p_values_ = np.ones(size)
  p_values_[0] = 0.1 / (size // step)
  assert not ours(p_values_, 0.1).any()


# --- MAPIE --------------------------------------------------------------------


def test_mapie_counts_one_loss_too_many_after_rounding():
  """ceil(25 * (7 / 25)) is 8."""
  losses = np.full(25, 7 / 25)
  assert math.ceil(25 * losses.mean()) == 8
  with_7 = p_values.Bentkus().from_totals(7.0, 25, 0.6)
  assert p_values.Bentkus()(losses, 0.6) == pytest.approx(with_7)
  assert with_7 < p_values.Bentkus().from_totals(8.0, 25, 0.6)


def test_mapie_gives_nan_for_a_nan():
  with pytest.raises(errors.DataError, match='nan of example row 1'):
    p_values.HoeffdingBentkus()(np.array([0.0, np.nan]), 0.1)
