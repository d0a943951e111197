"""The whole validation: dumps in, a `ValidationResult` out.

    dumps --risks--> tables --trials, rules--> rows
    dumps --replay--> gaps, and a rule that calibrates on the replay

All dumps hold the same examples, so every measure and every rule is tried on
the same splits.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax import contracts, errors, text_metrics
from calm_jax.calibration import (
  choices,
  conformal_risk_control,
  from_dump,
  multiple_testing,
  naive,
  p_values,
  replay,
  risks,
  samples,
  trials,
  validation,
  validation_records,
)
from calm_jax.dump import reader

# The loss against the full output, and that against the references.
OBJECTIVES = ('textual', 'risk')


@dataclasses.dataclass(frozen=True, eq=False)
class NamedDump:
  """A dump, its examples sorted by id, and its short name."""

  name: str
  manifest: contracts.Manifest
  data: contracts.Dump


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
      _p_value(settings, kind(metric))


def read_dumps(directories: Sequence[str | os.PathLike]) -> list[NamedDump]:
  """Reads dumps that can be compared.

  Raises:
    DataError: a dump is damaged or incomplete, was not generated, stopped
      before the end of its grid, or holds other examples than the first.
  """
  opened = [reader.read_dump(directory) for directory in directories]
  names = _short_names([manifest for manifest, _ in opened], directories)
  dumps = []
  for name, (manifest, data) in zip(names, opened, strict=True):
    _check_complete(name, manifest)
    dumps.append(NamedDump(name, manifest, _sorted_by_id(data)))
    _check_same_examples(dumps[0], dumps[-1])
  names = [dump.name for dump in dumps]
  if repeated := sorted({name for name in names if names.count(name) > 1}):
    raise errors.DataError(
      f'Every dump needs a name of its own, but {repeated} come twice; give'
      ' each dump once, in folders with different names.'
    )
  return dumps


def validate(
  dumps: Sequence[NamedDump],
  settings: Settings,
  groups: Sequence[str] | None = None,
  track: Callable[[Sequence], Iterable] = iter,
) -> validation_records.ValidationResult:
  """Tries every rule on every dump, objective and tolerance.

  Args:
    dumps: from `read_dumps`.
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
    groups = groups_by_length(dumps[0].data.sources.tolist())
    try:
      trials.check_groups(groups)
    except errors.DataError as error:
      notes.append(f'No shift was tried between short and long inputs. {error}')
      groups = None
  rows: list[Any] = []
  gaps: list[Any] = []
  used: set[str] = set()
  for dump, kind in track([(d, k) for d in dumps for k in objectives]):
    objective = _objective(dump, kind, settings.metric)
    p_value = _p_value(settings, objective)
    used.add(repr(p_value))
    rows += _rows(dump, objective, p_value, settings, groups)
    if _can_be_replayed(dump) and settings.decode is not None:
      gaps += replay.gaps(
        dump.manifest, dump.data, objective, settings.decode, dump.name
      )
  for dump in dumps:
    if _can_be_replayed(dump):
      gaps += replay.gaps(dump.manifest, dump.data, name=dump.name)
    else:
      notes.append(f'{dump.name} does not decide by confidences: no replay.')
  plan = settings.plan
  return validation_records.ValidationResult(
    num_examples=dumps[0].data.num_examples,
    num_layers=max(dump.manifest.num_decoder_layers for dump in dumps),
    tolerances=plan.tolerances,
    failure_prob=plan.failure_prob,
    num_trials=plan.num_trials,
    test_share=plan.test_share,
    seed=plan.seed,
    p_value=', '.join(sorted(used)),
    procedure=repr(settings.procedure),
    provenance={
      dump.name: from_dump.provenance(dump.manifest) for dump in dumps
    },
    notes=tuple(notes),
    rows=tuple(rows),
    replay_gaps=tuple(gaps),
  )


def groups_by_length(sources: Sequence[str]) -> list[str]:
  """[N] 'short inputs' up to the median number of characters, else long."""
  lengths = np.array([len(source) for source in sources])
  median = np.median(lengths)
  return ['short inputs' if x <= median else 'long inputs' for x in lengths]


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
    measure=dump.manifest.measure,
    threshold_schedule=dump.manifest.threshold_schedule,
    consistency=objective.name,
    metric=settings.metric or dump.manifest.metric,
  )
  make = functools.partial(
    validation.rows_of, plan=settings.plan, source=source
  )
  replayed = None
  if settings.decode is not None and _can_be_replayed(dump):
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


def _p_value(settings, objective) -> p_values.PValue:
  p_value = settings.p_value or choices.default_p_value(objective.loss_range)
  choices.check_holds(p_value, objective.loss_range)
  return p_value


def _objective(dump, kind, metric) -> risks.Consistency:
  compare = (
    text_metrics.get_metric(dump.manifest.metric)
    if metric is None
    else text_metrics.get_or_import_metric(metric)
  )
  return kind(functools.cache(compare))


def _short_names(
  manifests: Sequence[contracts.Manifest],
  directories: Sequence[str | os.PathLike],
) -> list[str]:
  """The measures' names, with as much as is needed to tell them apart."""
  folders = [pathlib.Path(directory).name for directory in directories]
  spellings = [
    (name, x.measure.removesuffix('()'), f'{name} in {folder}')
    for name, x, folder in zip(
      [_without_knobs(x.measure) for x in manifests],
      manifests,
      folders,
      strict=True,
    )
  ]
  schedules = [
    ''
    if x.threshold_schedule == 'ConstantThreshold()'
    else f' with {_without_knobs(x.threshold_schedule)}'
    for x in manifests
  ]
  for kind in range(3):
    names = [
      spelling[kind] + schedule
      for spelling, schedule in zip(spellings, schedules, strict=True)
    ]
    if len(set(names)) == len(names):
      break
  return names


def _without_knobs(text: str) -> str:
  return text.partition('(')[0]


def _can_be_replayed(dump: NamedDump) -> bool:
  return not dump.manifest.measure.startswith(replay.NOT_BY_CONFIDENCE)


def _sorted_by_id(data: contracts.Dump) -> contracts.Dump:
  order = np.argsort(data.example_ids)
  return type(data)(
    **{name: array[order] for name, array in data.arrays().items()}
  )


def _check_complete(name: str, manifest: contracts.Manifest) -> None:
  if manifest.stopped:
    raise errors.DataError(
      'A validation needs all thresholds, for rules that go further down than'
      f' the calibrated one, but the dump of {name} stopped at'
      f' {manifest.thresholds[-1]:g}; run `calm dump` without --stop_tolerance.'
    )


def _check_same_examples(first: NamedDump, other: NamedDump) -> None:
  ids, others = (set(x.data.example_ids.tolist()) for x in (first, other))
  if ids != others:
    raise errors.DataError(
      'All dumps must hold the same examples, so that measures are compared on'
      f' the same splits, but {len(ids ^ others)} are only in one of the dumps'
      f' of {first.name} and {other.name}; dump the same split for each.'
    )
