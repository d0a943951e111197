"""The cost model against counts by hand and against itself."""

import dataclasses

import numpy as np
import pytest

from benchmarks import cost_model, cost_table
from calm_jax import errors
from calm_jax.evaluation import (
  confidence_cost,
  flops,
  skipped_cost,
)

SIZES = cost_table.SIZES
FULL = confidence_cost.ChosenOnly()
SOFTMAX = confidence_cost.WholeSoftmax()
TOP_K = confidence_cost.TopK(k=64)
CONSTANTS = cost_model.Constants(
  seconds_per_byte=1 / 20e9,
  seconds_per_flop=1 / 80e9,
  seconds_per_layer=1e-4,
  seconds_per_logit=5e-9,
)
MEGABYTE = 2**20


def at_layer(layer, num_layers=8):
  return np.eye(num_layers)[layer - 1]


def test_bytes_of_the_full_model_by_hand():
  """8 layers of 10.5 MB, their caches, and 62.8 MB of output embedding."""
  work = cost_model.step_work(SIZES, at_layer(8), FULL)
  weights = 4 * (4 * 512 * 384 + 2 * 512 * 384 + 3 * 512 * 1024)
  caches = 4 * 2 * 384 * (512 + 32.5)
  assert weights / MEGABYTE == pytest.approx(10.5)
  assert work.num_bytes == 8 * (weights + caches) + 4 * 512 * 32128
  assert work.num_layers == 8
  assert work.num_logits == 32128


@pytest.mark.parametrize('layer', [1, 3, 8])
@pytest.mark.parametrize('cost', [FULL, SOFTMAX, TOP_K])
def test_operations_are_those_of_the_exact_count(layer, cost):
  """Two routes: averages here, token by token in `flops`."""
  used = np.full((3, 40), layer)
  exact = flops.flops_per_token(SIZES, used, np.full(3, 100), cost)
  work = cost_model.step_work(
    SIZES, at_layer(layer), cost, source_length=100, target_length=40
  )
  expected = exact.total - exact.source_projection
  assert work.num_flops == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
  'skipping',
  [skipped_cost.Projected(), skipped_cost.Run()],
)
def test_propagation_is_that_of_the_exact_count(skipping):
  """Tokens alternate between two depths; the last is deep, so all is owed."""
  used = np.tile([2, 8], (1, 20))
  exact = flops.flops_per_token(SIZES, used, np.full(1, 100), skipping=skipping)
  work = cost_model.step_work(
    SIZES,
    (at_layer(2) + at_layer(8)) / 2,
    FULL,
    source_length=100,
    target_length=40,
    skipping=skipping,
  )
  # Deep tokens stand at even positions, half a position later than the mean;
  # what shallow ones owe stands half a position earlier.
  is_run = isinstance(skipping, skipped_cost.Run)
  position = 6 * 4 * 384 * 0.5 / 2 * (not is_run)
  assert exact.propagation > 0
  assert work.num_flops + position == pytest.approx(
    exact.total - exact.source_projection, rel=1e-9
  )


def test_a_batch_reads_weights_once_and_columns_per_row():
  one = cost_model.step_work(SIZES, at_layer(2), TOP_K)
  many = cost_model.step_work(SIZES, at_layer(2), TOP_K, batch_size=8)
  per_row = 4 * (2 * 2 * 384 * (512 + 32.5) + 64 * 512)
  assert many.num_bytes - one.num_bytes == pytest.approx(7 * per_row)
  assert many.num_flops == pytest.approx(8 * one.num_flops)
  assert many.num_layers == one.num_layers == 2
  assert many.num_logits == 8 * (32128 + 64)


def test_a_preview_is_read_once_and_its_candidates_by_each_row():
  """d * d + r V weights, and 256 columns per row; all tokens get a logit."""
  cost = confidence_cost.ScreenedTopK(k=64, rank=32, num_candidates=256)
  one, many = (
    cost_model.step_work(SIZES, at_layer(1), cost, batch_size=batch)
    for batch in (1, 8)
  )
  layer = cost_model.step_work(SIZES, at_layer(1), FULL).num_bytes - (
    4 * 512 * 32128
  )
  preview = 4 * (512 * 512 + 32 * 32128)
  assert one.num_bytes == pytest.approx(layer + preview + 4 * 256 * 512)
  assert many.num_bytes - one.num_bytes == pytest.approx(
    7 * 4 * (2 * 384 * (512 + 32.5) + 256 * 512)
  )
  assert many.num_logits == 8 * (32128 + 256)


@pytest.mark.parametrize('batch', [4, 32])
def test_layers_run_for_the_rows_that_need_them(batch):
  """Against throws of dice: packs of 4 rows, and of 16 and 4 of 32."""
  shares = np.array([0.4, 0.3, 0.2, 0.05, 0.03, 0.01, 0.01, 0])
  work = cost_model.step_work(SIZES, shares, FULL, batch_size=batch)
  rng = np.random.default_rng(0)
  drawn = rng.choice(np.arange(1, 9), (20_000, batch), p=shares)
  passes = attending = 0
  for layer in range(1, 9):
    need = (drawn >= layer).sum(axis=1)
    packed = need <= 0.75 * batch
    # Five rows or more that are left over fill up a pack of 16.
    packs = need // 16 + np.where(need % 16 > 0, 1, 0)
    passes += np.where(packed, packs, 1).mean()
    attending += np.where(packed, need, batch).mean()
  assert work.num_layers == pytest.approx(passes, abs=0.05)
  # Only caches grow with the source: 2 * 384 numbers of each of its tokens.
  longer = cost_model.step_work(
    SIZES, shares, FULL, batch_size=batch, source_length=513
  )
  grown = (longer.num_bytes - work.num_bytes) / (4 * 2 * 384)
  assert grown == pytest.approx(attending, rel=0.02)


def test_packs_are_those_of_the_decoder():
  """The decoder's own numbers, which a NumPy module cannot import."""
  from calm_jax.early_exit.engine import packing, token_run

  assert cost_model._ROWS_PER_PACK == packing.ROWS_PER_PACK
  assert cost_model._LARGEST_PACKED_SHARE == token_run._LARGEST_PACKED_SHARE


def test_weights_of_one_byte():
  work = cost_model.step_work(SIZES, at_layer(8), FULL, weight_bytes=1)
  full = cost_model.step_work(SIZES, at_layer(8), FULL)
  caches = 8 * 4 * 2 * 384 * (512 + 32.5)
  assert work.num_bytes - caches == pytest.approx((full.num_bytes - caches) / 4)


@pytest.mark.parametrize('mean', [1, 1.0001, 2.5, 4.5, 7.9, 8])
def test_shares_have_their_mean_and_one_ratio(mean):
  shares = cost_model.shares_with_mean(8, mean)
  assert shares @ np.arange(1, 9) == pytest.approx(mean, abs=1e-6)
  assert shares.sum() == pytest.approx(1)
  if 1.01 < mean < 7.95:
    ratios = shares[1:] / shares[:-1]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)


def works_of_all_kinds():
  return [
    cost_model.step_work(SIZES, at_layer(layer), cost, batch_size=batch)
    for layer in (1, 2, 4, 8)
    for cost in (FULL, SOFTMAX, TOP_K)
    for batch in (1, 8, 32)
  ]


def test_fit_finds_the_constants_that_made_the_times():
  works = works_of_all_kinds()
  seconds = [cost_model.predict(work, CONSTANTS) for work in works]
  found = cost_model.fit(works, seconds)
  for name, value in CONSTANTS.to_json().items():
    assert found.to_json()[name] == pytest.approx(value, rel=1e-5)


def test_fit_of_noisy_times_predicts_others():
  works = works_of_all_kinds()
  truth = np.array([cost_model.predict(work, CONSTANTS) for work in works])
  noise = np.random.default_rng(0).lognormal(0, 0.05, len(works))
  found = cost_model.fit(works[::2], (truth * noise)[::2])
  others = [cost_model.predict(work, found) for work in works[1::2]]
  np.testing.assert_allclose(others, truth[1::2], rtol=0.1)


def test_speedup_is_the_ratio_of_two_predictions():
  full = cost_model.step_work(SIZES, at_layer(8), FULL)
  early = cost_model.step_work(
    SIZES, cost_model.shares_with_mean(8, 3.0), TOP_K
  )
  assert cost_model.speedup(SIZES, 3.0, TOP_K, CONSTANTS) == pytest.approx(
    cost_model.predict(full, CONSTANTS) / cost_model.predict(early, CONSTANTS)
  )


def test_break_even_divides_what_pays_from_what_does_not():
  """The softmax response needs far fewer layers than top-k to pay."""
  most = {
    cost: cost_model.most_layers_that_pay(SIZES, cost, CONSTANTS)
    for cost in (SOFTMAX, TOP_K, FULL)
  }
  assert 1 < most[SOFTMAX] < most[TOP_K] < most[FULL] == 8
  for cost in (SOFTMAX, TOP_K):
    at = [
      cost_model.speedup(SIZES, most[cost] + step, cost, CONSTANTS)
      for step in (-0.1, 0.1)
    ]
    assert at[0] > 1 > at[1]


def test_it_never_pays_where_nothing_is_saved():
  """One layer: the exit after it is the last one."""
  sizes = dataclasses.replace(SIZES, num_decoder_layers=1)
  assert cost_model.most_layers_that_pay(sizes, SOFTMAX, CONSTANTS) is None


def test_one_row_gains_most_and_packs_give_some_of_it_back():
  """Of 8 rows the deepest decides; 32 rows are packed once most have left."""
  gains = [
    cost_model.speedup(SIZES, 3.0, TOP_K, CONSTANTS, batch_size=batch)
    for batch in (1, 8, 32)
  ]
  assert gains[0] > gains[2] > gains[1]


def test_wrong_input_is_refused():
  with pytest.raises(errors.DataError, match='8 numbers that sum to 1'):
    cost_model.step_work(SIZES, [0.5, 0.5], FULL)
  with pytest.raises(errors.DataError, match='within 1 and 8, got 9'):
    cost_model.shares_with_mean(8, 9)
  with pytest.raises(errors.DataError, match='got 0 steps'):
    cost_model.fit([], [])
  with pytest.raises(errors.DataError, match='seconds_per_flop'):
    cost_model.Constants(
      seconds_per_byte=0,
      seconds_per_flop=-1.0,
      seconds_per_layer=0,
      seconds_per_logit=0,
    )
