"""What crosses stages: the dump and the results. NumPy only, validated.

    runner --Manifest, Dump--> calibration --CalibrationResult--> evaluation
    evaluation --EvaluationResult--> report

Every record is frozen and checks itself when it is made, so that a stage may
trust what it receives. Sizes: N examples, G thresholds, T output positions
(`max_decode_length`), L decoder layers. A threshold of 1 is the full model, by
rule. CALM writes delta for `tolerance` and epsilon for `failure_prob`;
Learn-then-Test writes alpha and delta for the same two.
"""

import dataclasses

from calm_jax.records import json_records, record_checks
from calm_jax.records.dump_arrays import Dump as Dump
from calm_jax.records.efficiency_records import Flops as Flops
from calm_jax.records.efficiency_records import Milliseconds as Milliseconds
from calm_jax.records.efficiency_records import Speed as Speed
from calm_jax.records.evaluation_records import CurvePoint as CurvePoint
from calm_jax.records.evaluation_records import (
  EvaluationResult as EvaluationResult,
)
from calm_jax.records.evaluation_records import ExampleLoss as ExampleLoss
from calm_jax.records.evaluation_records import Outputs as Outputs
from calm_jax.records.evaluation_records import Sample as Sample
from calm_jax.records.evaluation_records import SystemRow as SystemRow
from calm_jax.records.json_records import SCHEMA_VERSION as SCHEMA_VERSION
from calm_jax.records.json_records import read_json as read_json
from calm_jax.records.json_records import (
  write_bytes_atomically as write_bytes_atomically,
)
from calm_jax.records.json_records import (
  write_json_atomically as write_json_atomically,
)
from calm_jax.records.record_checks import CONSISTENCIES as CONSISTENCIES

GENERATED = 'generated_at_each_threshold'
# Simulated from the trace of the full model: an estimate, no guarantee.
REPLAYED = 'replayed'
# What a calibration promises: CALM's bound with probability 1 - failure_prob,
# or only that of conformal risk control, on average over calibrations.
HIGH_PROBABILITY = 'with_high_probability'
IN_EXPECTATION = 'in_expectation_only'


@dataclasses.dataclass(frozen=True)
class ShardInfo(json_records.Record):
  """One npz file of a dump."""

  file: str
  num_examples: int
  sha256: str  # of the file's bytes, in hexadecimal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(json_records.Record):
  """Describes a dump; a directory that holds one is complete.

  Without shards it is a header: what a writer is given before any example.

  Attributes:
    thresholds: [G], strictly descending, first 1.0 (the full model).
    measure: repr of the confidence measure.
    decode_mode: how the texts came about; only texts generated at each
      threshold carry CALM's guarantee.
    model_digest, config_digest, data_digest: name what was run, so that a
      calibration is not applied to something else.
    stopped: '' or why lower thresholds that were asked for are not there.
    network: sizes of the network by their names in `t5.network.T5Config`, and
      `num_mlp_inputs`, kernels into the feed-forward block.
    exit_layers: layers after which a token might leave, the last is L; if
      empty, unknown.
  """

  task: str
  split: str
  metric: str
  thresholds: tuple[float, ...]
  num_decoder_layers: int
  max_decode_length: int
  measure: str
  threshold_schedule: str
  model_digest: str
  config_digest: str
  data_digest: str
  num_examples: int = 0
  shards: tuple[ShardInfo, ...] = ()
  decode_mode: str = GENERATED
  stopped: str = ''
  network: dict[str, int] = dataclasses.field(default_factory=dict)
  exit_layers: tuple[int, ...] = ()
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  command: str = ''
  schema_version: int = SCHEMA_VERSION

  def __post_init__(self):
    json_records.check_schema_version(self.schema_version, 'The manifest')
    grid = self.thresholds
    record_checks.require(
      len(grid) > 0
      and grid[0] == 1.0
      and grid[-1] >= 0.0
      and all(high > low for high, low in zip(grid, grid[1:], strict=False)),
      'thresholds must start with 1.0 (the full model) and descend strictly'
      f' to at least 0, got {grid}',
    )
    # num_layers_used is int8.
    record_checks.require(
      1 <= self.num_decoder_layers <= 127,
      f'num_decoder_layers must be in 1..127, got {self.num_decoder_layers}',
    )
    record_checks.require(
      self.max_decode_length >= 1,
      f'max_decode_length must be positive, got {self.max_decode_length}',
    )
    total = sum(shard.num_examples for shard in self.shards)
    record_checks.require(
      self.num_examples == total,
      f'num_examples is {self.num_examples}, but the shards hold {total}',
    )
    exits = self.exit_layers
    record_checks.require(
      not exits
      or (
        exits[0] >= 1
        and exits[-1] == self.num_decoder_layers
        and all(low < high for low, high in zip(exits, exits[1:], strict=False))
      ),
      'exit_layers must ascend from at least 1 and end with the last layer'
      f' {self.num_decoder_layers}, got {exits}',
    )
    files = [shard.file for shard in self.shards]
    record_checks.require(
      len(set(files)) == len(files), f'a shard is listed twice: {files}'
    )


@dataclasses.dataclass(frozen=True)
class GridPoint(json_records.Record):
  """One threshold on the calibration split.

  `certified` is the decision of the testing procedure. `mean_layers` is per
  token; `mean_metric` is the task's metric against the references.
  """

  threshold: float
  mean_loss: float
  p_value: float
  certified: bool
  mean_layers: float
  mean_metric: float

  def __post_init__(self):
    record_checks.require_unit(self, 'threshold', 'p_value', 'mean_metric')
    record_checks.require_loss(self, 'mean_loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationResult(json_records.Record):
  """The calibrated threshold and everything that led to it.

  Attributes:
    threshold: the lowest certified threshold; 1.0 if none is, with the reason.
    consistency: one of `CONSISTENCIES`.
    p_value, procedure: repr of the p-value and of the testing procedure.
    grid: [G], in the order tested (thresholds descending).
    dump: provenance: task, split, measure, digests of model, config, data.
    warning: '' or what is doubtful, such as too few examples for this
      tolerance.
    guarantee: `HIGH_PROBABILITY`, or `IN_EXPECTATION`, which is weaker and to
      which the failure probability means nothing.
  """

  threshold: float
  tolerance: float
  failure_prob: float
  consistency: str
  metric: str
  p_value: str
  procedure: str
  num_examples: int
  reason: str
  grid: tuple[GridPoint, ...]
  dump: dict[str, str]
  warning: str = ''
  guarantee: str = HIGH_PROBABILITY
  schema_version: int = SCHEMA_VERSION

  def __post_init__(self):
    json_records.check_schema_version(self.schema_version, 'The calibration')
    record_checks.require_guarantee(self)
    record_checks.require_unit(self, 'threshold')
    record_checks.require(
      self.guarantee in (HIGH_PROBABILITY, IN_EXPECTATION),
      f'guarantee must be {HIGH_PROBABILITY!r} or {IN_EXPECTATION!r}, got'
      f' {self.guarantee!r}',
    )
