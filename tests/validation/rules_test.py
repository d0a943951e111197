"""Rules on many trials: known risks, plain loops, and broken assumptions."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from calm_jax import errors
from calm_jax.calibration import choices, threshold_selection
from calm_jax.records import csv_tables
from calm_jax.validation import naive, samples, trials
from calm_jax.validation import rules as validation

SOURCE = validation.Source('dump', 'm', 's', 'textual', 'chrf')
FAILURE_PROB = 0.05


def calibrated(p_value='hoeffding_bentkus', failure_prob=FAILURE_PROB):
  return samples.CalibratedRule(
    choices.get_p_value(p_value),
    choices.get_procedure('fixed_sequence'),
    failure_prob,
  )


def known_risk(num_examples, risks):
  """Losses of 0 and 1 whose population risk at each threshold is known.

  Example i loses at all thresholds whose risk is above i's place in [0, 1], so
  that the whole table has exactly these risks, and its rows are as dependent
  from threshold to threshold as can be.
  """
  places = (np.arange(num_examples) + 0.5) / num_examples
  losses = (places[:, None] < risks).astype(float)
  layers = np.tile(np.linspace(8, 1, len(risks)), (num_examples, 1))
  return samples.ExampleTable(
    thresholds=np.linspace(1, 0, len(risks)),
    losses=losses,
    scores=1.0 - losses,
    layers=layers,
    tokens=np.ones_like(losses),
  )


def random_table(num_examples=90, grid=7, seed=0):
  random = np.random.default_rng(seed)
  losses = random.random((num_examples, grid)) * np.linspace(0, 0.6, grid)
  tokens = random.integers(1, 9, losses.shape).astype(float)
  return samples.ExampleTable(
    thresholds=np.linspace(1, 0.4, grid),
    losses=losses,
    scores=random.random(losses.shape),
    layers=tokens * random.random(losses.shape) * 8,
    tokens=tokens,
  )


@pytest.mark.parametrize('p_value', ['hoeffding_bentkus', 'binomial'])
def test_calibrated_keeps_its_promise_and_naive_breaks_it(p_value):
  """Thresholds so fine around the tolerance that every step is a decision."""
  tolerance, num_trials = 0.1, 2000
  risks = np.concatenate([[0.0], np.linspace(0.02, 0.2, 91)])
  table = known_risk(6000, risks)
  plan = trials.Plan(
    tolerances=(tolerance,),
    failure_prob=FAILURE_PROB,
    num_trials=num_trials,
    sizes=(300,),
  )
  parts = next(iter(trials.trials_by_size(table, plan)))
  assert parts.calibration.chosen.shape == (num_trials, 300)

  def risk_of(rule):
    return risks[validation.choices_of(parts, rule, tolerance)]

  sigma = np.sqrt(FAILURE_PROB * (1 - FAILURE_PROB) / num_trials)
  rule = calibrated(p_value)
  violated = np.mean(risk_of(rule) > tolerance + 1e-9)
  assert violated <= FAILURE_PROB + 3 * sigma
  # Not because it never leaves: a risk of half the tolerance is found as often
  # as a count of losses in the sample lets the test pass, and the exact test
  # uses up nearly all that it is allowed.
  counts = np.arange(301)
  passes = rule.p_value.from_totals(counts, 300, tolerance) <= FAILURE_PROB
  power = stats.binom.cdf(counts[passes].max(), 300, 0.05)
  assert power > 0.8
  found = np.mean(risk_of(rule) >= 0.05 - 1e-9)
  assert abs(found - power) < 4 * np.sqrt(power * (1 - power) / num_trials)
  if p_value == 'binomial':
    assert violated > 0.02
  for scan in (True, False):
    naive_risk = risk_of(naive.MeanLossWithinTolerance(scan))
    assert 0.4 < np.mean(naive_risk > tolerance + 1e-9) < 0.6
  assert np.all(risk_of(naive.Oracle(table.means())) == pytest.approx(0.1))
  # The rows say the same, because the table's own risk is the known one.
  rows = validation.rows_of(parts, (rule,), plan, SOURCE)
  assert rows[0].violations_on_population == violated
  low = rows[0].violations_on_population_low
  assert low <= violated <= rows[0].violations_on_population_high
  assert (rows[0].kind, rows[1].kind) == ('calibrated', 'oracle')
  assert rows[1].violations_on_population == 0.0


def test_rows_by_hand():
  """One trial after the other, with nothing shared but the splits."""
  table = random_table()
  plan = trials.Plan(tolerances=(0.1, 0.2), num_trials=9)
  parts = trials.random_splits(table, plan)
  assert parts.test.chosen.shape == (9, 18)
  for calibration, test in zip(
    parts.calibration.chosen, parts.test.chosen, strict=True
  ):
    assert sorted([*calibration, *test]) == list(range(90))
  rules = (calibrated(), naive.MeanLossWithinTolerance())
  rows = validation.rows_of(parts, rules, plan, SOURCE)
  assert [(row.rule, row.tolerance) for row in rows] == [
    (name, tolerance)
    for name in ('calibrated', 'mean_loss_scan', 'oracle')
    for tolerance in plan.tolerances
  ]
  for row in rows[:4]:
    thresholds = [
      threshold_selection.calibrate(
        table.losses[x],
        table.thresholds,
        row.tolerance,
        FAILURE_PROB,
        'hoeffding_bentkus',
      ).threshold
      if row.rule == 'calibrated'
      else scanned(table, table.losses[x].mean(axis=0), row.tolerance)
      for x in parts.calibration.chosen
    ]
    columns = [table.thresholds.tolist().index(t) for t in thresholds]
    test = [
      (table.losses[x, g].mean(), table.layers[x, g].sum(), table.tokens[x, g])
      for x, g in zip(parts.test.chosen, columns, strict=True)
    ]
    losses = np.array([loss for loss, _, _ in test])
    layers = [layers / tokens.sum() for _, layers, tokens in test]
    whole = table.losses[:, columns].mean(axis=0)
    assert row.violations_on_test == np.mean(losses > row.tolerance)
    assert row.violations_on_population == np.mean(whole > row.tolerance)
    assert row.test_loss == pytest.approx(losses.mean())
    assert row.test_loss_sd == pytest.approx(losses.std())
    assert row.population_loss == pytest.approx(whole.mean())
    assert row.layers == pytest.approx(np.mean(layers))
    assert row.layers_sd == pytest.approx(np.std(layers))
    assert row.threshold == pytest.approx(np.mean(thresholds))
    assert row.full_model == np.mean(np.array(thresholds) == 1.0)
    assert (row.num_trials, row.num_calibration, row.num_test) == (9, 72, 18)


def scanned(table, means, tolerance):
  chosen = 1.0
  for threshold, mean in zip(table.thresholds, means, strict=True):
    if mean > tolerance:
      break
    chosen = threshold
  return chosen


def test_the_same_seed_gives_the_same_splits_and_another_others():
  table, other = random_table(seed=0), random_table(seed=1)
  plan = trials.Plan(num_trials=4)

  def chosen(table, plan):
    return trials.random_splits(table, plan).test.chosen.tolist()

  assert chosen(table, plan) == chosen(other, plan)
  assert chosen(table, plan) != chosen(table, dataclasses.replace(plan, seed=1))


def test_smaller_calibration_samples_are_parts_of_larger_ones():
  table = random_table()
  plan = trials.Plan(num_trials=3, sizes=(25, 40, 500))
  parts = list(trials.trials_by_size(table, plan))
  sizes = [x.calibration.chosen.shape[1] for x in parts]
  assert sizes == [25, 40, 72, 90], 'as many as there are, and no more'
  for small, large in zip(parts, parts[1:], strict=False):
    np.testing.assert_array_equal(small.test.chosen, large.test.chosen)
    width = small.calibration.chosen.shape[1]
    np.testing.assert_array_equal(
      small.calibration.chosen, large.calibration.chosen[:, :width]
    )


def test_drawn_with_replacement_an_example_may_come_twice():
  table = random_table()
  parts = list(trials.trials_by_size(table, trials.Plan(num_trials=5)))[-1]
  assert parts.calibration.members.max() > 1
  for r, chosen in enumerate(parts.calibration.chosen):
    np.testing.assert_allclose(
      parts.calibration.means.losses[r], table.losses[chosen].mean(axis=0)
    )
  np.testing.assert_allclose(parts.population.losses, table.losses.mean(axis=0))


def test_more_examples_are_worth_fewer_layers():
  table = known_risk(2000, np.concatenate([[0.0], np.linspace(0.01, 0.3, 60)]))
  plan = trials.Plan(tolerances=(0.1,), sizes=(50, 400))
  layers = [
    validation.rows_of(parts, (calibrated(),), plan, SOURCE)[0].layers
    for parts in trials.trials_by_size(table, plan)
  ]
  assert layers[0] > layers[1] + 0.5 > layers[2] + 0.5


def test_a_shift_voids_the_guarantee():
  """Calibrated on examples that never lose, tested on some that do."""
  random = np.random.default_rng(0)
  groups = np.array(['easy'] * 300 + ['hard'] * 300)
  losses = np.zeros((600, 3))
  losses[300:, 1:] = random.random((300, 2)) < (0.3, 0.5)
  table = samples.ExampleTable(
    thresholds=np.array([1.0, 0.5, 0.0]),
    losses=losses,
    scores=1.0 - losses,
    layers=np.tile([8.0, 4.0, 2.0], (600, 1)),
    tokens=np.ones((600, 3)),
  )
  plan = trials.Plan(tolerances=(0.1,), num_trials=20)
  rows = {
    (parts.calibrated_on, parts.tested_on): validation.rows_of(
      parts, (calibrated(),), plan, SOURCE
    )[0]
    for parts in trials.trials_by_group(table, plan, groups)
  }
  assert set(rows) == {
    (a, b) for a in ('easy', 'hard') for b in ('easy', 'hard')
  }
  violations = {k: row.violations_on_population for k, row in rows.items()}
  assert violations.pop(('easy', 'hard')) == 1.0
  assert set(violations.values()) == {0.0}
  assert rows['easy', 'hard'].num_calibration == 240
  assert rows['hard', 'hard'].full_model == 1.0


def test_of_more_groups_each_is_tested_against_all_others():
  table = random_table(90)
  groups = np.repeat(['a', 'b', 'c'], 30)
  plan = trials.Plan(num_trials=2)
  parts = list(trials.trials_by_group(table, plan, groups))
  assert [(x.calibrated_on, x.tested_on) for x in parts] == [
    (a, b) for b in 'abc' for a in (b, f'all but {b}')
  ]
  shifted = parts[1]
  assert set(shifted.calibration.chosen.ravel()) <= set(range(30, 90))
  assert shifted.calibration.table is table
  np.testing.assert_allclose(
    shifted.population.losses, table.losses[:30].mean(axis=0)
  )


@pytest.mark.parametrize(
  'groups', [['a'] * 90, ['a'] * 71 + ['b'] * 19, ['a'] * 89 + ['b']]
)
def test_groups_that_show_nothing(groups):
  with pytest.raises(errors.DataError, match='at least two groups'):
    list(trials.trials_by_group(random_table(), trials.Plan(), groups))


def test_one_example_is_not_enough():
  with pytest.raises(errors.DataError, match='at least 2, got 1'):
    trials.random_splits(random_table(1), trials.Plan())
  parts = trials.random_splits(random_table(2), trials.Plan(num_trials=1))
  assert parts.calibration.chosen.shape == parts.test.chosen.shape == (1, 1)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'tolerances': ()}, 'must not be empty'),
    ({'tolerances': (0.2, 0.1)}, 'must rise'),
    ({'tolerances': (0.1, 0.1)}, 'must rise'),
    ({'tolerances': (0.0, 0.1)}, r'in \(0, 1\)'),
    ({'failure_prob': 1.0}, r'in \(0, 1\)'),
    ({'num_trials': 0}, 'at least 1'),
    ({'test_share': 1.0}, r'in \(0, 1\)'),
    ({'test_share': float('nan')}, r'in \(0, 1\)'),
    ({'sizes': (0,)}, 'at least 1'),
    ({'seed': -1}, 'at least 0'),
  ],
)
def test_a_plan_that_cannot_be(fields, message):
  with pytest.raises(errors.ConfigError, match=message):
    trials.Plan(**fields)


def test_a_thousand_splits_need_one_multiplication():
  """1,000 splits of 1,000 examples at 40 thresholds, all rules: seconds."""
  table = random_table(1000, 40)
  plan = trials.Plan(num_trials=1000)
  parts = trials.random_splits(table, plan)
  rules = (calibrated(), *naive.DEFAULTS)
  rows = validation.rows_of(parts, rules, plan, SOURCE)
  assert len(rows) == len(plan.tolerances) * (len(rules) + 1)
  assert {row.num_trials for row in rows} == {1000}
  header, first = csv_tables.of_records(rows).splitlines()[:2]
  assert (
    header.startswith('experiment,dump,measure') and 'random_splits' in first
  )
