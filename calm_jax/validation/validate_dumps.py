"""The whole validation: dumps in, a `ValidationResult` out.

    named_dumps --risks--> tables --trials, rules--> rows
    named_dumps --replay--> gaps, and a rule that calibrates on the replay

All dumps hold the same examples, so every measure and every rule is tried on
the same splits.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  multiple_testing,
  p_values,
  risks,
)
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts, descriptions
from calm_jax.validation import (
  naive,
  named_dumps,
  replay,
  samples,
  trials,
  validation_records,
)
from calm_jax.validation import rules as validation

# The loss against the full output, and that against the references.
OBJECTIVES = ('textual', 'risk')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is validated, and how.

  Attributes:
    plan: trials and tolerances.
    objectives: names in `risks.CONSISTENCIES`.
    metric: of all losses; each dump's own if None.
    p_value, procedure: of the calibrated rule. Without a p-value, the default
      for the objective's losses.
    naive_rules: the baselines.
    decode: a tokenizer's, from a row of tokens to text; without it, replays
      are compared token by token.
  """

  plan: trials.Plan = trials.Plan()  # noqa: RUF009
  objectives: tuple[str, ...] = OBJECTIVES
  metric: str | None = None
  p_value: p_values.PValue | None = None
  procedure: choices.Procedure = multiple_testing.DEFAULT
  naive_rules: tuple[naive.NaiveRule, ...] = naive.DEFAULTS
  decode: Callable[[np.ndarray], str] | None = None


def check(settings: Settings) -> None:
  """Refuses settings that are known wrong before any dump is read.

  Raises:
    ConfigError: an objective or metric is unknown, or the p-value does not hold
      for losses of this kind.
  """
  kinds = [risks.get_consistency(name) for name in settings.objectives]
  if len(set(kinds)) < len(kinds):
    raise errors.ConfigError(
      f'Each consistency may be named once, got {settings.objectives}.'
    )
  if settings.metric is not None:
    metric = text_metrics.get_or_import_metric(settings.metric)
    for kind in kinds:
      choices.settle_p_value(settings.p_value, kind(metric).loss_range)


def validate(
  dumps: Sequence[named_dumps.NamedDump],
  settings: Settings,
  groups: Sequence[str] | None = None,
  track: Callable[[Sequence], Iterable] = iter,
) -> validation_records.ValidationResult:
  """Tries every rule on every dump, objective and tolerance.

  Args:
    dumps: from `named_dumps.read_dumps`.
    settings: what is tried.
    groups: [N] in the order of the sorted ids, for the shift; short and long
      inputs if None.
    track: wraps the list of what is to be done, to show progress.

  Raises:
    ConfigError: a name or number is none, or a p-value does not hold for an
      objective's losses.
    DataError: the dumps cannot be validated so, or a group is too small.
  """
  objectives = [risks.get_consistency(name) for name in settings.objectives]
  notes = []
  if isinstance(
    settings.procedure, conformal_risk_control.ConformalRiskControl
  ):
    notes.append(conformal_risk_control.GUARANTEE)
  if groups is not None:
    trials.check_groups(groups)
  else:
    groups, note = _groups_or_why_not(dumps[0].data)
    notes += note
  rows: list[Any] = []
  gaps: list[Any] = []
  used: set[str] = set()
  for dump, kind in track([(d, k) for d in dumps for k in objectives]):
    objective = _objective(dump, kind, settings.metric)
    p_value = choices.settle_p_value(settings.p_value, objective.loss_range)
    used.add(str(descriptions.describe(p_value)))
    rows += _rows(dump, objective, p_value, settings, groups)
    if dump.can_be_replayed and settings.decode is not None:
      gaps += replay.gaps(
        dump.manifest, dump.data, objective, settings.decode, dump.name
      )
  for dump in dumps:
    if dump.can_be_replayed:
      gaps += replay.gaps(dump.manifest, dump.data, name=dump.name)
    else:
      notes.append(f'{dump.name} does not decide by confidences: no replay.')
  plan = settings.plan
  return validation_records.ValidationResult(
    num_examples=dumps[0].data.num_examples,
    num_layers=max(dump.manifest.model.num_decoder_layers for dump in dumps),
    tolerances=plan.tolerances,
    failure_prob=plan.failure_prob,
    num_trials=plan.num_trials,
    test_share=plan.test_share,
    seed=plan.seed,
    p_value=', '.join(sorted(used)),
    procedure=str(descriptions.describe(settings.procedure)),
    provenance={dump.name: dump.manifest.provenance for dump in dumps},
    notes=tuple(notes),
    rows=tuple(rows),
    replay_gaps=tuple(gaps),
  )


def groups_by_length(sources: Sequence[str]) -> list[str]:
  """[N] 'short inputs' up to the median number of characters, else long."""
  lengths = np.array([len(source) for source in sources])
  median = np.median(lengths)
  return ['short inputs' if x <= median else 'long inputs' for x in lengths]


def _groups_or_why_not(
  data: contracts.Dump,
) -> tuple[list[str] | None, list[str]]:
  """Short and long inputs, or None and a note where there are too few."""
  groups = groups_by_length(data.sources.tolist())
  try:
    trials.check_groups(groups)
  except errors.DataError as error:
    note = f'No shift was tried between short and long inputs. {error}'
    return None, [note]
  return groups, []


def groups_of(
  data: contracts.Dump, group_of: Mapping[str, str], where: str
) -> list[str]:
  """[N], each example's group; `where` names the mapping in messages.

  Raises:
    DataError: an example has none.
  """
  missing = [x for x in data.example_ids.tolist() if x not in group_of]
  if missing:
    raise errors.DataError(
      f'{where} must give a group for every example, but {len(missing)} of'
      f' {data.num_examples} have none, as {missing[:3]}.'
    )
  return [group_of[x] for x in data.example_ids.tolist()]


def _rows(dump, objective, p_value, settings, groups):
  """All experiments of one dump and objective."""
  table = samples.table_of_dump(dump.manifest, dump.data, objective)
  calibrated = samples.CalibratedRule(
    p_value, settings.procedure, settings.plan.failure_prob
  )
  rules = (calibrated, *settings.naive_rules)
  source = validation.Source(
    dump=dump.name,
    measure=str(dump.manifest.model.measure),
    threshold_schedule=str(dump.manifest.model.threshold_schedule),
    consistency=objective.name,
    metric=settings.metric or dump.manifest.metric,
  )
  make = functools.partial(
    validation.rows_of, plan=settings.plan, source=source
  )
  replayed = None
  if settings.decode is not None and dump.can_be_replayed:
    replayed = _replayed_table(dump, objective, settings.decode)
  split = trials.random_splits(table, settings.plan)
  rows = make(split, rules) + _on_replay(make, split, calibrated, replayed)
  experiment = validation_records.CALIBRATION_SIZE
  for parts in trials.trials_by_size(table, settings.plan):
    rows += make(parts, rules, experiment=experiment)
    rows += _on_replay(make, parts, calibrated, replayed, experiment=experiment)
  if groups is not None:
    for parts in trials.trials_by_group(table, settings.plan, groups):
      rows += make(parts, rules, experiment=validation_records.SHIFT)
  return rows


def _on_replay(make, parts, calibrated, replayed, **kwargs):
  """The rows of a rule that calibrates on an estimate, tested on the truth."""
  if replayed is None:
    return []
  rule = dataclasses.replace(
    calibrated, name='calibrated_on_replay', kind='estimate'
  )
  estimated = dataclasses.replace(
    parts, calibration=samples.Samples(replayed, parts.calibration.chosen)
  )
  return make(estimated, (rule,), with_oracle=False, **kwargs)


def _replayed_table(dump, objective, decode) -> samples.ExampleTable:
  """What the replay makes of each example: an estimate of `table_of_dump`."""
  replayed = replay.replay(dump.manifest, dump.data)
  return samples.table_of(
    dump.manifest.thresholds,
    dataclasses.replace(
      dump.data,
      predictions=replayed.predictions(decode),
      num_layers_used=replayed.num_layers_used,
      tokens=replayed.tokens,
    ),
    objective,
  )


def _objective(dump, kind, metric) -> risks.Consistency:
  compare = (
    text_metrics.get_metric(dump.manifest.metric)
    if metric is None
    else text_metrics.get_or_import_metric(metric)
  )
  return kind(functools.cache(compare))
