"""What an evaluation found: the records between `evaluation` and `report`.

`contracts` offers them with all others; sizes are named there.
"""

import dataclasses

from calm_jax.records import efficiency_records, json_records, record_checks


@dataclasses.dataclass(frozen=True)
class CurvePoint(json_records.Record):
  """One threshold on the test split, for the trade-off curve."""

  threshold: float
  mean_loss: float
  mean_metric: float
  mean_layers: float

  def __post_init__(self):
    record_checks.require_unit(self, 'threshold', 'mean_metric')
    record_checks.require_loss(self, 'mean_loss')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs(json_records.Record):
  """What one system's outputs are like, besides the task's metric.

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
    record_checks.require_unit(self, 'exact_match', 'endless')
    if self.num_ended:
      record_checks.require(
        None not in (self.mean_metric_ended, self.mean_loss_ended),
        f'{self.num_ended} texts that end must have a mean metric and loss',
      )
      record_checks.require_unit(self, 'mean_metric_ended')
      record_checks.require_loss(self, 'mean_loss_ended')


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
    split_scores: of the whole split, in percent, as papers print them.
  """

  threshold: float
  mean_loss: float
  loss_upper_95: float
  mean_metric: float
  mean_layers: float
  ms_per_token: float
  tokens_timed: int
  outputs: Outputs | None = None
  flops: efficiency_records.Flops | None = None
  speed: efficiency_records.Speed | None = None
  split_scores: dict[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    record_checks.require_unit(self, 'threshold', 'mean_metric')
    record_checks.require_loss(self, 'mean_loss', 'loss_upper_95')


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
    record_checks.require(
      len(self.pieces) == len(self.num_layers_used),
      f'sample {self.example_id} has {len(self.pieces)} pieces but'
      f' {len(self.num_layers_used)} layer counts',
    )


@dataclasses.dataclass(frozen=True)
class ExampleLoss(json_records.Record):
  """One test example at the calibrated threshold, and at the full model.

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
    record_checks.require_unit(self, 'metric')
    record_checks.require_loss(self, 'loss')


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
  schema_version: int = json_records.RESULTS_VERSION

  def __post_init__(self):
    record_checks.require_guarantee(self)
