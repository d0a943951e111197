"""Quality and layers of each threshold of a dump, as tidy rows. NumPy only.

Manifest, Dump --> rows of quality and layers, by position, by exit
"""

import dataclasses
import functools

import numpy as np

from calm_jax.calibration import risks
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts


@dataclasses.dataclass(frozen=True)
class TradeOff:
  """One threshold of one measure.

  Attributes:
    measure: its name in the study.
    threshold: 1 is the full model.
    mean_layers: decoder layers per token.
    mean_metric: the task's metric against the references.
    mean_loss: 1 - metric against the full model's output.
    exact: share of outputs that equal the reference.
    unchanged: share of outputs that equal the full model's.
    num_examples: texts.
    ms_per_token, speedup: measured at batch size 1, encoder included; NaN where
      nothing was timed.
  """

  measure: str
  threshold: float
  mean_layers: float
  mean_metric: float
  mean_loss: float
  exact: float
  unchanged: float
  num_examples: int
  ms_per_token: float = float('nan')
  speedup: float = float('nan')


def trade_offs(
  measure: str, manifest: contracts.Manifest, dump: contracts.Dump
) -> list[TradeOff]:
  """One row per threshold, in the dump's order."""
  compare = functools.cache(text_metrics.get_metric(manifest.metric))
  ids = dump.example_ids
  scores = risks.score(compare, dump.predictions, dump.references, ids)
  losses = risks.TextualConsistency(compare).losses(
    dump.predictions, dump.references, ids
  )
  exact = dump.predictions == dump.references[:, None]
  unchanged = dump.predictions == dump.predictions[:, :1]
  return [
    TradeOff(
      measure=measure,
      threshold=threshold,
      mean_layers=float(layers),
      mean_metric=float(scores[:, column].mean()),
      mean_loss=float(losses[:, column].mean()),
      exact=float(exact[:, column].mean()),
      unchanged=float(unchanged[:, column].mean()),
      num_examples=dump.num_examples,
    )
    for column, (threshold, layers) in enumerate(
      zip(manifest.thresholds, dump.mean_layers(), strict=True)
    )
  ]


def lowest_within(rows: list[TradeOff], loss_limit: float) -> int:
  """Index of the last row before the mean loss first exceeds the limit.

  Args:
    rows: thresholds descending; the first is the full model, whose loss is 0.
    loss_limit: largest mean loss.
  """
  exceeds = [row.mean_loss > loss_limit for row in rows]
  return exceeds.index(True) - 1 if any(exceeds) else len(rows) - 1


def layers_by_position(
  num_layers_used: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Mean layers of the tokens at each position.

  Args:
    num_layers_used: [N, T], 1..L, 0 where there is no token.

  Returns:
    Means [T] (NaN where no output is that long) and counts of tokens [T].
  """
  counts = (num_layers_used > 0).sum(axis=0)
  with np.errstate(invalid='ignore'):
    return num_layers_used.sum(axis=0, dtype=np.int64) / counts, counts


def recall_at(ranks: np.ndarray, k: int) -> np.ndarray:
  """Share of tokens among the K best of each layer.

  Args:
    ranks: [layers, ...] from `study.recall.token_ranks`; -1 is padding.
    k: how many tokens are kept.

  Returns:
    [layers].
  """
  is_token = ranks[0] >= 0
  return (ranks[:, is_token] < k).mean(axis=1)
