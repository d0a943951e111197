"""Milliseconds per token before anything is trained: bytes, operations, layers.

    sizes, measure, layers per token, batch --step_work--> Work
    Work, Constants --predict--> seconds per step

A step makes one token of every row of a batch. Its time is the sum of

    bytes that it reads       x seconds_per_byte     1 / read bandwidth
    operations                x seconds_per_flop     1 / arithmetic speed
    passes through layers     x seconds_per_layer    dispatch, norms, caches
    logits that are scored    x seconds_per_logit    softmax and best tokens

At batch size 1 the bytes decide: every weight is read for two operations.
Weights are read once for a whole batch, caches and operations grow with it. The
four constants belong to a machine; `fit` finds them from measured steps, as
`make bench` does. A sum has no maximum of two terms in it, so it also stands
for machines that read while they compute: their constants come out smaller.

What is counted, with the symbols of `calm_jax.evaluation.flops`; x source
tokens, t the mean position, c the columns of the output embedding of an exit:

    a layer that runs    weights 6 d a + (g + 1) d f; caches 2 a (t + x) per row
    an exit              d c weights; of K tokens or candidates d c per row
    a skipped layer      keys and values, 4 d a operations per row, later; see
                         `skipped_cost` for other choices

Source projection and encoder are left out: they are paid once per sequence.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from calm_jax import errors
from calm_jax.evaluation import (
  confidence_cost,
  network_sizes,
  skipped_cost,
)
from calm_jax.records import json_records, record_checks

_FLOAT32 = 4  # bytes
# As in `early_exit.packing` and `token_run`, which need JAX.
_ROWS_PER_PACK = (16, 4)
_LARGEST_PACKED_SHARE = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work(json_records.Record):
  """What one decoding step does, for all rows together.

  Attributes:
    num_bytes: that must be read from memory.
    num_flops: operations, 2 per multiplication.
    num_layers: passes through decoder layers, each with some rows or all.
    num_logits: logits that are scored.
  """

  num_bytes: float
  num_flops: float
  num_layers: float
  num_logits: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants(json_records.Record):
  """A machine, as far as decoding is concerned.

  Attributes:
    seconds_per_byte, seconds_per_flop, seconds_per_layer, seconds_per_logit:
      at least 0; what a fit cannot tell apart from the others is 0.
  """

  seconds_per_byte: float
  seconds_per_flop: float
  seconds_per_layer: float
  seconds_per_logit: float

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      record_checks.require(value >= 0.0, f'{name} must be at least 0')


def step_work(
  sizes: network_sizes.NetworkSizes,
  layer_shares: Sequence[float] | np.ndarray,
  cost: confidence_cost.ConfidenceCost,
  *,
  batch_size: int = 1,
  source_length: float = 512,
  target_length: float = 64,
  weight_bytes: float = _FLOAT32,
  cache_bytes: float = _FLOAT32,
  skipping: skipped_cost.SkippedCost = skipped_cost.Projected(),  # noqa: B008
) -> Work:
  """Counts one step, averaged over a sequence.

  Rows are independent of each other. A layer is passed with the whole batch
  while most rows need it, and with packs of the rows that do once they are few
  (`early_exit.packing`). Each pass reads its weights, and multiplies as many
  rows as a pack has. A pack reads the caches of its own rows, a pass of the
  whole batch those of all. What a measure multiplies beside the output
  embedding counts as weights, an attention classifier's few states too.

  Args:
    sizes: of the network.
    layer_shares: [L] shares of the tokens that leave after layer 1..L; see
      `shares_with_mean` where only their mean is known.
    cost: of the confidence measure, which is taken at every layer.
    batch_size: rows.
    source_length, target_length: tokens of a row.
    weight_bytes, cache_bytes: of one number.
    skipping: what a skipped layer costs. Its multiplications are counted; it
      reads no weights of its own, as it is computed with the later token.

  Raises:
    DataError: the shares are not L numbers that sum to 1.
  """
  shares = _checked_shares(layer_shares, sizes.num_decoder_layers)
  # [L], the share of the tokens that need each layer.
  needed = 1.0 - np.concatenate([[0.0], np.cumsum(shares)[:-1]])
  needed = np.clip(needed, 0.0, 1.0)
  passes, rows, attending = _passes_and_rows(needed, batch_size)
  position = (target_length + 1) / 2
  weights = _layer_weights(sizes)
  cached = 2.0 * sizes.attention_dim * (position + source_length)
  shared, own, logits = _scored_columns(cost, sizes)
  beside = float(cost.per_measurement(sizes, np.array(position)))
  # Positions that a layer owes when it runs, if it ever does.
  owed = batch_size * np.where(needed > 1e-9, 1.0 - needed, 0.0)
  num_weights = passes.sum() * weights + passes[:-1].sum() * beside / 2
  columns_read = (passes * shared + rows * own).sum()
  flops = 2 * (rows.sum() * weights + attending.sum() * cached)
  flops += rows[:-1].sum() * beside
  flops += 2 * sizes.emb_dim * (rows * (shared + own)).sum()
  flops += owed @ skipping(sizes, np.array(position), np.array(source_length))
  return Work(
    num_bytes=float(
      (num_weights + columns_read * sizes.emb_dim) * weight_bytes
      + attending.sum() * cached * cache_bytes
    ),
    num_flops=float(flops),
    num_layers=float(passes.sum()),
    num_logits=float((rows * logits).sum()),
  )


def shares_with_mean(num_layers: int, mean_layers: float) -> np.ndarray:
  """[L] shares of the exits with a given mean, otherwise as even as can be.

  The distribution of greatest entropy: shares in geometric progression.

  Raises:
    DataError: the mean is not within 1 and L.
  """
  if not 1 <= mean_layers <= num_layers:
    raise errors.DataError(
      f'Layers per token must be within 1 and {num_layers}, got {mean_layers}.'
    )
  layers = np.arange(1, num_layers + 1)

  def shares(slope):
    logits = slope * layers
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()

  steepest = 50.0  # From here on all tokens use one end's layer.
  if abs(shares(-steepest) @ layers - mean_layers) < 1e-9:
    return shares(-steepest)
  if abs(shares(steepest) @ layers - mean_layers) < 1e-9:
    return shares(steepest)
  return shares(
    optimize.brentq(lambda x: shares(x) @ layers - mean_layers, -50.0, 50.0)
  )


def predict(work: Work, constants: Constants) -> float:
  """Seconds of one step."""
  return float(_row(work) @ _vector(constants))


def fit(works: Sequence[Work], seconds: Sequence[float]) -> Constants:
  """The constants of least squared relative error, none of them negative.

  Args:
    works: [N] steps.
    seconds: [N], what each took.

  Raises:
    DataError: there are none, or one took no time.
  """
  measured = np.asarray(seconds, np.float64)
  if not len(measured) or not (measured > 0).all():
    raise errors.DataError(
      f'A fit needs steps that took time, got {len(measured)} steps.'
    )
  rows = np.array([_row(work) for work in works])
  # Columns of one size keep the solver exact; bytes and layers differ by 1e8.
  scales = np.maximum(rows.max(axis=0), 1e-300)
  relative = rows / scales / measured[:, None]
  solution, _ = optimize.nnls(relative, np.ones(len(measured)))
  return Constants(
    **dict(zip(_PAIRS, (solution / scales).tolist(), strict=True))
  )


def speedup(
  sizes: network_sizes.NetworkSizes,
  mean_layers: float,
  cost: confidence_cost.ConfidenceCost,
  constants: Constants,
  **step: Any,
) -> float:
  """How many times faster than the full model; below 1 it does not pay.

  Args:
    sizes, cost, constants: as for `step_work` and `predict`.
    mean_layers: layers per token.
    **step: batch_size, source_length, target_length, as for `step_work`.
  """
  num_layers = sizes.num_decoder_layers
  full = step_work(
    sizes,
    shares_with_mean(num_layers, num_layers),
    confidence_cost.ChosenOnly(),
    **step,
  )
  early = step_work(
    sizes, shares_with_mean(num_layers, mean_layers), cost, **step
  )
  return predict(full, constants) / predict(early, constants)


def most_layers_that_pay(
  sizes: network_sizes.NetworkSizes,
  cost: confidence_cost.ConfidenceCost,
  constants: Constants,
  **step: Any,
) -> float | None:
  """The layers per token below which early exit is faster than the full model.

  Arguments as for `speedup`.

  Returns:
    A number within 1 and L; None if it is never faster.
  """

  def gain(mean_layers):
    return speedup(sizes, float(mean_layers), cost, constants, **step) - 1.0

  num_layers = sizes.num_decoder_layers
  if gain(1) <= 0:
    return None
  if gain(num_layers) >= 0:
    return float(num_layers)
  return float(optimize.brentq(gain, 1, num_layers))


# Constant -> what it is multiplied with.
_PAIRS = {
  'seconds_per_byte': 'num_bytes',
  'seconds_per_flop': 'num_flops',
  'seconds_per_layer': 'num_layers',
  'seconds_per_logit': 'num_logits',
}


def _row(work: Work) -> np.ndarray:
  return np.array([getattr(work, name) for name in _PAIRS.values()])


def _vector(constants: Constants) -> np.ndarray:
  return np.array([getattr(constants, name) for name in _PAIRS])


def _layer_weights(sizes: network_sizes.NetworkSizes) -> float:
  """Numbers in the kernels that a token meets in one layer."""
  attentions = 6.0 * sizes.emb_dim * sizes.attention_dim
  return attentions + (sizes.num_mlp_inputs + 1.0) * sizes.emb_dim * (
    sizes.mlp_dim
  )


def _passes_and_rows(
  needed: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """[L] expected numbers of each layer.

  How many rows need a layer is binomial, as rows are independent.

  Returns:
    Passes through the layer, rows computed in all of them, rows that attend.
  """
  counts = np.arange(batch_size + 1)
  packs = np.array([_packs(int(count), batch_size) for count in counts])
  is_packed = counts <= _LARGEST_PACKED_SHARE * batch_size
  passes = np.where(is_packed, packs[:, 0], 1)
  rows = np.where(is_packed, packs[:, 1], batch_size)
  attending = np.where(is_packed, counts, batch_size)
  chances = stats.binom.pmf(counts, batch_size, needed[:, None])
  return chances @ passes, chances @ rows, chances @ attending


def _packs(count: int, batch_size: int) -> tuple[int, int]:
  """How many packs take so many rows, and the sum of their sizes."""
  sizes = sorted({min(x, batch_size) for x in _ROWS_PER_PACK}, reverse=True)
  packs = rows = 0
  for size, smaller in zip(sizes, [*sizes[1:], 0], strict=True):
    while count > smaller:
      packs, rows, count = packs + 1, rows + size, count - size
  return packs, rows


def _scored_columns(
  cost: confidence_cost.ConfidenceCost, sizes: network_sizes.NetworkSizes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """[L] what each layer's exit takes of the output embedding.

  Returns:
    Columns that all rows share, columns of each row's own, logits of each row.
  """
  exits = tuple(range(1, sizes.num_decoder_layers + 1))
  so_far = cost.output_embedding(sizes, exits) / (2.0 * sizes.emb_dim)
  columns = np.diff(so_far, prepend=0.0)
  is_whole = columns >= sizes.vocab_size
  # A preview of all tokens is shared, the candidates that it proposes are not.
  num_candidates = getattr(cost, 'num_candidates', np.inf)
  own = np.where(is_whole, 0.0, np.minimum(columns, num_candidates))
  is_preview = ~is_whole & (columns > num_candidates)
  logits = own + np.where(is_whole | is_preview, sizes.vocab_size, 0.0)
  return columns - own, own, logits


def _checked_shares(layer_shares, num_layers: int) -> np.ndarray:
  shares = np.asarray(layer_shares, np.float64)
  if shares.shape != (num_layers,) or abs(shares.sum() - 1.0) > 1e-6:
    raise errors.DataError(
      f'The shares of the exits must be {num_layers} numbers that sum to 1, got'
      f' {shares.tolist()}.'
    )
  return shares
