"""What a decoded token costs, in operations and in time: `Flops`, `Speed`.

`evaluation` makes them, `contracts.SystemRow` carries them to the report. Both
are per generated token, the end of the sequence included. Standard library
only.
"""

import dataclasses
import math

from calm_jax.records import json_records, record_checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops(json_records.Record):
  """Decoder operations per token; `evaluation.flops` has the formula.

  Attributes:
    self_attention: projections and attention of the layers that ran.
    cross_attention: likewise, without keys and values of the source.
    source_projection: these keys and values, shared by a sequence's tokens.
    feed_forward: of the layers that ran.
    propagation: what layers compute later of tokens that skipped them, for
      tokens that did not.
    confidence: what measuring costs besides the output embedding.
    output_embedding: products with it, to measure and to choose the token.
  """

  self_attention: float
  cross_attention: float
  source_projection: float
  feed_forward: float
  propagation: float
  confidence: float
  output_embedding: float

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      record_checks.require(
        math.isfinite(value) and value >= 0.0,
        f'{name} must be at least 0 operations, got {value}',
      )

  @property
  def total(self) -> float:
    return sum(dataclasses.asdict(self).values())

  @property
  def without_output_embedding(self) -> float:
    return self.total - self.output_embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Milliseconds(json_records.Record):
  """Wall-clock milliseconds per token over the timed batches.

  Attributes:
    mean: all time over all tokens.
    lower_quartile, median, upper_quartile: over the batches, each of them time
      over tokens.
  """

  mean: float
  lower_quartile: float
  median: float
  upper_quartile: float

  def __post_init__(self):
    ordered = (self.lower_quartile, self.median, self.upper_quartile)
    record_checks.require(
      all(map(math.isfinite, (self.mean, *ordered)))
      and self.mean > 0.0
      and 0.0 < ordered[0] <= ordered[1] <= ordered[2],
      f'times must be positive and quartiles must ascend, got {self}',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed(json_records.Record):
  """One system's time per token, with the encoder and without it.

  Attributes:
    with_encoder: from token ids to token ids.
    decoder: the same without the encoder's time; None where that was not
      measured by itself.
    num_batches: batches of texts that were timed.
    repeats: how often each ran; the median counts.
  """

  with_encoder: Milliseconds
  decoder: Milliseconds | None = None
  num_batches: int
  repeats: int

  def __post_init__(self):
    record_checks.require(
      self.num_batches >= 1 and self.repeats >= 1,
      'a speed needs at least one batch and one repeat, got'
      f' {self.num_batches} and {self.repeats}',
    )
