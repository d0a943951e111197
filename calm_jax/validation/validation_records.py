"""What a validation found, as records: one row per rule and setting."""

import dataclasses

from calm_jax.records import json_records, manifest

RANDOM_SPLITS = 'random_splits'
CALIBRATION_SIZE = 'calibration_size'
SHIFT = 'distribution_shift'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationRow(json_records.Record):
  """How one rule did over many trials.

  A trial calibrates on some examples, chooses a threshold, and looks at others.
  It violates the tolerance on the test part if the mean loss there exceeds it,
  and on the population if the mean loss over all examples that could have been
  tested does. The first may be bad luck of a small test part, which befalls the
  oracle too. `docs/validation.md` says how to read both in each experiment.

  Attributes:
    experiment: `RANDOM_SPLITS`, `CALIBRATION_SIZE` or `SHIFT`.
    dump: the measure's short name.
    measure, threshold_schedule: with their knobs, in words.
    consistency, metric: what the loss is.
    kind: 'calibrated', 'naive', 'oracle', or 'estimate' where losses that were
      replayed, not generated, were calibrated on: nothing is guaranteed there.
    calibrated_on, tested_on: groups of examples; 'all' without groups.
    violations_on_test, violations_on_population: shares of the trials, each
      with its 95% Clopper-Pearson interval, which is about the number of trials
      of this dump, not about other data.
    test_loss, population_loss, layers, score, threshold: means over the trials,
      of the test part where nothing else is said; `_sd` standard deviations.
    full_model: share of the trials that chose threshold 1.
  """

  experiment: str
  dump: str
  measure: str
  threshold_schedule: str
  consistency: str
  metric: str
  rule: str
  kind: str
  tolerance: float
  failure_prob: float
  calibrated_on: str
  tested_on: str
  num_trials: int
  num_calibration: int
  num_test: int
  violations_on_test: float
  violations_on_test_low: float
  violations_on_test_high: float
  violations_on_population: float
  violations_on_population_low: float
  violations_on_population_high: float
  test_loss: float
  test_loss_sd: float
  population_loss: float
  population_loss_sd: float
  layers: float
  layers_sd: float
  score: float
  score_sd: float
  threshold: float
  threshold_sd: float
  full_model: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayGapRow(json_records.Record):
  """Route (b), the replayed trace, beside route (a), the generated texts.

  Attributes:
    dump: the measure's short name.
    loss: what is compared: 'token_disagreement' or the metric of the texts.
    generated_loss, replayed_loss: means over the examples.
    generated_layers, replayed_layers: per token.
    loss_gap, layers_gap: replayed minus generated.
  """

  dump: str
  loss: str
  threshold: float
  generated_loss: float
  replayed_loss: float
  loss_gap: float
  generated_layers: float
  replayed_layers: float
  layers_gap: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult(json_records.Record):
  """All rows, and what is needed to make them again.

  Attributes:
    num_examples: N, the same ones in all dumps.
    num_layers: L of the decoder.
    tolerances: the grid.
    test_share: of the examples, in random splits.
    p_value, procedure: those of the rule 'calibrated', in words.
    provenance: of each dump, by short name.
    notes: what a reader must know, such as groups that were left out.
    rows: of all experiments.
    replay_gaps: of all dumps.
  """

  num_examples: int
  num_layers: int
  tolerances: tuple[float, ...]
  failure_prob: float
  num_trials: int
  test_share: float
  seed: int
  p_value: str
  procedure: str
  provenance: dict[str, manifest.Provenance]
  notes: tuple[str, ...]
  rows: tuple[ValidationRow, ...]
  replay_gaps: tuple[ReplayGapRow, ...]
  schema_version: int = json_records.RESULTS_VERSION

  def of(self, experiment: str) -> tuple[ValidationRow, ...]:
    """The rows of one experiment."""
    return tuple(row for row in self.rows if row.experiment == experiment)
