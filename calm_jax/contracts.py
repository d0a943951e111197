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
import math

from calm_jax import errors, json_records
from calm_jax.dump_arrays import Dump as Dump
from calm_jax.efficiency_records import Flops as Flops
from calm_jax.efficiency_records import Milliseconds as Milliseconds
from calm_jax.efficiency_records import Speed as Speed
from calm_jax.json_records import SCHEMA_VERSION as SCHEMA_VERSION
from calm_jax.json_records import read_json as read_json
from calm_jax.json_records import (
  write_bytes_atomically as write_bytes_atomically,
)
from calm_jax.json_records import write_json_atomically as write_json_atomically

GENERATED = 'generated_at_each_threshold'
# Simulated from the trace of the full model: an estimate, no guarantee.
REPLAYED = 'replayed'
CONSISTENCIES = ('textual', 'risk', 'risk_difference')
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
      empty, nobody noted them.
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
    _require(
      len(grid) > 0
      and grid[0] == 1.0
      and grid[-1] >= 0.0
      and all(high > low for high, low in zip(grid, grid[1:], strict=False)),
      'thresholds must start with 1.0 (the full model) and descend strictly'
      f' to at least 0, got {grid}',
    )
    # num_layers_used is int8.
    _require(
      1 <= self.num_decoder_layers <= 127,
      f'num_decoder_layers must be in 1..127, got {self.num_decoder_layers}',
    )
    _require(
      self.max_decode_length >= 1,
      f'max_decode_length must be positive, got {self.max_decode_length}',
    )
    total = sum(shard.num_examples for shard in self.shards)
    _require(
      self.num_examples == total,
      f'num_examples is {self.num_examples}, but the shards hold {total}',
    )
    exits = self.exit_layers
    _require(
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
    _require(len(set(files)) == len(files), f'a shard is listed twice: {files}')


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
    _require_unit(self, 'threshold', 'p_value', 'mean_metric')
    _require_loss(self, 'mean_loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationResult(json_records.Record):
  """The calibrated threshold and everything that led to it.

  Attributes:
    threshold: the lowest certified threshold; 1.0 if none is, with the reason.
    consistency: one of `CONSISTENCIES`.
    p_value, procedure: repr of the p-value and of the testing procedure.
    grid: [G], in the order tested (thresholds descending).
    dump: provenance: task, split, measure, digests of model, config, data.
    warning: '' or why this tolerance can never be certified with so few
      examples.
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
    _require_guarantee(self)
    _require_unit(self, 'threshold')
    _require(
      self.guarantee in (HIGH_PROBABILITY, IN_EXPECTATION),
      f'guarantee must be {HIGH_PROBABILITY!r} or {IN_EXPECTATION!r}, got'
      f' {self.guarantee!r}',
    )


@dataclasses.dataclass(frozen=True)
class CurvePoint(json_records.Record):
  """One threshold on the test split, for the trade-off curve."""

  threshold: float
  mean_loss: float
  mean_metric: float
  mean_layers: float

  def __post_init__(self):
    _require_unit(self, 'threshold', 'mean_metric')
    _require_loss(self, 'mean_loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs(json_records.Record):
  """What one system's outputs are like, beside the task's metric.

  Attributes:
    exact_match: share of outputs equal to the reference.
    endless: share that never ends: no end of sequence within the limit.
    num_ended: texts whose output ends, the full model's too.
    mean_metric_ended, mean_loss_ended: over these; None if there are none.
  """

  exact_match: float
  endless: float
  num_ended: int
  mean_metric_ended: float | None = None
  mean_loss_ended: float | None = None

  def __post_init__(self):
    _require_unit(self, 'exact_match', 'endless')
    if self.num_ended:
      _require_unit(self, 'mean_metric_ended')
      _require_loss(self, 'mean_loss_ended')


@dataclasses.dataclass(frozen=True)
class SystemRow(json_records.Record):
  """One system on the test split: the full model or the calibrated one.

  Attributes:
    loss_upper_95: one-sided 95% upper confidence bound of the mean loss.
    ms_per_token: encoder included, all timed time over all timed tokens.
    outputs: None in files that were written before it was counted, as `flops`
      and `speed`.
    flops: also None where the network's sizes or the measure's cost are not
      known.
    speed: how `ms_per_token` spreads, and the same without the encoder.
  """

  threshold: float
  mean_loss: float
  loss_upper_95: float
  mean_metric: float
  mean_layers: float
  ms_per_token: float
  tokens_timed: int
  outputs: Outputs | None = None
  flops: Flops | None = None
  speed: Speed | None = None

  def __post_init__(self):
    _require_unit(self, 'threshold', 'mean_metric')
    _require_loss(self, 'mean_loss', 'loss_upper_95')


@dataclasses.dataclass(frozen=True)
class Sample(json_records.Record):
  """One output with the layers that each piece used (1..L)."""

  example_id: str
  source: str
  reference: str
  pieces: tuple[str, ...]
  num_layers_used: tuple[int, ...]
  full_prediction: str

  def __post_init__(self):
    _require(
      len(self.pieces) == len(self.num_layers_used),
      f'sample {self.example_id} has {len(self.pieces)} pieces but'
      f' {len(self.num_layers_used)} layer counts',
    )


@dataclasses.dataclass(frozen=True)
class ExampleLoss(json_records.Record):
  """One test example at the calibrated threshold, beside the full model.

  Attributes:
    loss: as it was calibrated.
    metric: of the calibrated output against the reference.
    num_tokens: of the calibrated output, EOS included.
  """

  example_id: str
  loss: float
  metric: float
  mean_layers: float
  num_tokens: int
  source: str
  reference: str
  prediction: str
  full_prediction: str

  def __post_init__(self):
    _require_unit(self, 'metric')
    _require_loss(self, 'loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult(json_records.Record):
  """The full and the calibrated model on the test split.

  Attributes:
    baselines: the task's metric of trivial systems, as the input copied.
    speedup: ms per token of the full model over the calibrated one, same run;
      both are all time over all tokens, encoder included.
    decoder_speedup: likewise without the encoder; None if it was not timed.
    flops_reduction: decoder operations per token of the full model over the
      calibrated one; None if they were not counted.
    flops_reduction_without_output_embedding: likewise, of the rest.
    curve: [G] on the test split, if the dump holds it.
    example_losses: the examples with the greatest losses, greatest first.
    layer_histogram: [L], tokens that used 1..L layers at the calibrated
      threshold.
    command: repeats the evaluation.
  """

  task: str
  split: str
  metric: str
  tolerance: float
  failure_prob: float
  consistency: str
  num_examples: int
  baselines: dict[str, float]
  full: SystemRow
  calibrated: SystemRow
  speedup: float
  batch_size: int
  machine: str
  decoder_speedup: float | None = None
  flops_reduction: float | None = None
  flops_reduction_without_output_embedding: float | None = None
  curve: tuple[CurvePoint, ...] = ()
  samples: tuple[Sample, ...] = ()
  example_losses: tuple[ExampleLoss, ...] = ()
  layer_histogram: tuple[int, ...] = ()
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  command: str = ''
  schema_version: int = SCHEMA_VERSION

  def __post_init__(self):
    json_records.check_schema_version(self.schema_version, 'The evaluation')
    _require_guarantee(self)


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise errors.DataError(f'{message}.')


def _require_unit(record: object, *names: str) -> None:
  for name in names:
    value = getattr(record, name)
    _require(
      math.isfinite(value) and 0.0 <= value <= 1.0,
      f'{name} must be in [0, 1], got {value}',
    )


def _require_loss(record: object, *names: str) -> None:
  """A risk difference, which rewards improvements, can be negative."""
  for name in names:
    value = getattr(record, name)
    _require(
      math.isfinite(value) and -1.0 <= value <= 1.0,
      f'{name} must be in [-1, 1], got {value}',
    )


def _require_guarantee(result: CalibrationResult | EvaluationResult) -> None:
  _require(
    result.consistency in CONSISTENCIES,
    f'consistency must be one of {CONSISTENCIES}, got {result.consistency!r}',
  )
  _require(
    0.0 < result.tolerance < 1.0 and 0.0 < result.failure_prob < 1.0,
    'tolerance and failure_prob must be in (0, 1), got'
    f' {result.tolerance} and {result.failure_prob}',
  )
  _require(result.num_examples >= 1, 'num_examples must be positive')
