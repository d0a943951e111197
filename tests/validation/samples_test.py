"""Many samples at once, against `calibrate` and plain means of each."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import (
  choices,
  loss_ranges,
  p_values,
  risks,
  threshold_selection,
)
from calm_jax.records import contracts
from calm_jax.validation import intervals, samples

N, G, R, SIZE = 80, 6, 12, 50
GRID = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])


def make_table(seed=0, zero_one=False):
  random = np.random.default_rng(seed)
  losses = random.random((N, G)) * np.linspace(0, 0.4, G)
  if zero_one:
    losses = (losses > 0.08).astype(float)
  tokens = random.integers(1, 9, (N, G)).astype(float)
  return samples.ExampleTable(
    thresholds=GRID,
    losses=losses,
    scores=random.random((N, G)),
    layers=tokens * random.integers(1, 9, (N, G)),
    tokens=tokens,
    loss_range=loss_ranges.ZERO_OR_ONE if zero_one else loss_ranges.UNIT,
  )


def make_samples(table, seed=1):
  orders = np.tile(np.arange(N), (R, 1))
  orders = np.random.default_rng(seed).permuted(orders, axis=1)
  return samples.Samples(table, orders[:, :SIZE])


def test_means_of_each_sample():
  table = make_table()
  drawn = make_samples(table)
  for r, chosen in enumerate(drawn.chosen):
    part = table.rows(chosen)
    assert part.num_examples == SIZE
    np.testing.assert_allclose(drawn.means.losses[r], part.losses.mean(axis=0))
    np.testing.assert_allclose(drawn.means.scores[r], part.scores.mean(axis=0))
    np.testing.assert_allclose(
      drawn.means.layers[r], part.layers.sum(axis=0) / part.tokens.sum(axis=0)
    )
  everything = table.means()
  np.testing.assert_allclose(everything.losses, table.losses.mean(axis=0))
  assert everything.layers.shape == (G,)


@pytest.mark.parametrize('procedure', sorted(choices.PROCEDURES))
@pytest.mark.parametrize(
  'p_value', ['hoeffding_bentkus', 'betting', 'empirical_bernstein', 'binomial']
)
def test_the_calibrated_rule_is_calibrate(p_value, procedure, monkeypatch):
  # Several chunks, so that their joints are tested too.
  monkeypatch.setattr(samples, '_CHUNK', 5 * SIZE * G)
  table = make_table(zero_one=p_value == 'binomial')
  drawn = make_samples(table)
  rule = samples.CalibratedRule(
    choices.get_p_value(p_value), choices.get_procedure(procedure), 0.1
  )
  chosen = set()
  for tolerance in (0.01, 0.1, 0.15, 0.2, 0.3, 0.6):
    columns = rule.columns(drawn, tolerance)
    expected = [
      threshold_selection.calibrate(
        table.losses[rows], GRID, tolerance, 0.1, rule.p_value, rule.procedure
      ).threshold
      for rows in drawn.chosen
    ]
    np.testing.assert_array_equal(GRID[columns], expected)
    chosen |= set(columns.tolist())
  assert len(chosen) >= 3, 'the tolerances were to tell thresholds apart'


def test_a_grid_of_the_full_model_alone():
  table = make_table()
  names = ('losses', 'scores', 'layers', 'tokens')
  alone = dataclasses.replace(
    table,
    thresholds=GRID[:1],
    **{name: getattr(table, name)[:, :1] for name in names},
  )
  rule = samples.CalibratedRule(
    choices.DEFAULT_P_VALUE, choices.get_procedure('fst'), 0.1
  )
  assert rule.columns(make_samples(alone), 0.1).tolist() == [0] * R


def test_a_p_value_is_not_used_for_losses_that_it_does_not_hold_for():
  table = make_table()
  drawn = make_samples(table)
  with pytest.raises(errors.DataError, match='0 or 1'):
    drawn.p_values(p_values.Binomial(), 0.1)


def test_tables_of_impossible_shape_or_losses():
  table = make_table()
  with pytest.raises(errors.DataError, match='All arrays must be'):
    dataclasses.replace(table, tokens=table.tokens[:-1])
  with pytest.raises(errors.DataError, match='All arrays must be'):
    dataclasses.replace(table, thresholds=GRID[:-1])
  with pytest.raises(errors.DataError, match=r'in \[0, 1\]'):
    dataclasses.replace(table, losses=table.losses + 1.0)


def test_table_of_a_dump():
  texts = np.array([['full text', 'full'], ['other', 'other']])
  used = np.array([[[4, 4, 0], [1, 2, 4]], [[4, 0, 0], [3, 0, 0]]], np.int8)
  data = contracts.Dump(
    example_ids=np.array(['a', 'b']),
    sources=np.array(['s', 's']),
    references=np.array(['full', 'other']),
    predictions=texts,
    tokens=(used > 0).astype(np.int32),
    num_layers_used=used,
    confidences=np.zeros(used.shape, np.float32),
    trace_confidences=np.zeros((2, 3, 4), np.float32),
    trace_tokens=np.zeros((2, 3, 4), np.int32),
  )
  manifest, _ = dumps.make_dump(thresholds=(1.0, 0.5), max_decode_length=3)

  def exact(prediction, reference):
    return float(prediction == reference)

  objective = risks.TextualConsistency(exact)
  table = samples.table_of_dump(manifest, data, objective)
  assert table.losses.tolist() == [[0, 1], [0, 0]]
  assert table.scores.tolist() == [[0, 1], [1, 1]]
  assert table.layers.tolist() == [[8, 7], [4, 3]]
  assert table.tokens.tolist() == [[2, 3], [1, 1]]
  np.testing.assert_allclose(table.means().layers, data.mean_layers())
  replayed = dataclasses.replace(manifest, decode_mode=contracts.REPLAYED)
  with pytest.raises(errors.DataError, match='replayed'):
    samples.table_of_dump(replayed, data, objective)


def test_clopper_pearson_against_scipy():
  for trials in (1, 7, 200):
    counts = np.arange(trials + 1)
    low, high = intervals.clopper_pearson(counts, trials, 0.9)
    for count in counts:
      expected = stats.binomtest(int(count), trials).proportion_ci(
        0.9, method='exact'
      )
      np.testing.assert_allclose(
        (low[count], high[count]), expected, atol=1e-12
      )
