"""Where a report's numbers come from: settings, versions, commands.

pair, manifests -> names and values, commands that repeat them
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from calm_jax import errors
from calm_jax.calibration import choices, multiple_testing
from calm_jax.records import contracts, descriptions
from calm_jax.report import pairs


@dataclasses.dataclass(frozen=True)
class Provenance:
  """What the foot of the page shows.

  Attributes:
    commands: in the order in which they are to be run.
    settings: (name, value) of the calibration and of the system.
    versions: (where, versions) of the software that made the dumps and the
      evaluation.
  """

  commands: tuple[str, ...]
  settings: tuple[tuple[str, str], ...]
  versions: tuple[tuple[str, str], ...]


def describe(
  pair: pairs.Pair,
  manifests: Sequence[contracts.Manifest],
  report_command: str = '',
) -> Provenance:
  """Gathers what the results and the manifests tell."""
  told = [manifest.command for manifest in manifests]
  told += [pair.evaluation.command, report_command]
  # `calm demo` makes dumps, calibration and evaluation by one command.
  if pair.evaluation.command not in {x.command for x in manifests}:
    # The calibration follows the dump that it was made from.
    told.insert(
      len(_of_split(pair, manifests)), calibrate_command(pair.calibration)
    )
  return Provenance(
    commands=tuple(dict.fromkeys(filter(None, told))),
    settings=tuple(_settings(pair, manifests)),
    versions=tuple(_versions(pair, manifests)),
  )


def check_belong(
  pair: pairs.Pair, manifests: Sequence[contracts.Manifest]
) -> None:
  """Raises a DataError if a dump is of another system than the results."""
  for manifest in manifests:
    different = pair.calibration.dump.differences(manifest.provenance)
    for name, (told, got) in different.items():
      raise errors.DataError(
        f'The {manifest.split} dump must be of the system that was'
        f' calibrated, with {name} {told!r}, got one with {got!r}.'
      )


def calibrate_command(calibration: contracts.CalibrationResult) -> str:
  """Returns the command; the paths are for the reader to fill in.

  A p-value or a procedure with knobs of its own, which no flag can name, came
  from a gin file.
  """
  command = [
    'calm',
    'calibrate',
    '--dump_dir=CALIBRATION_DUMP',
    '--output=CALIBRATION.json',
    f'--tolerance={calibration.tolerance}',
    f'--failure_prob={calibration.failure_prob}',
    f'--consistency={calibration.consistency}',
    f'--metric={calibration.metric}',
  ]
  procedure = _name(choices.PROCEDURES, calibration.procedure)
  level = choices.first_level(
    choices.PROCEDURES.get(procedure, multiple_testing.DEFAULT),
    calibration.failure_prob,
    sum(point.threshold < 1.0 for point in calibration.grid),
  )
  aimed = {
    name: choice.aimed_at(level) for name, choice in choices.P_VALUES.items()
  }
  for flag, name in (
    ('p_value', _name(aimed, calibration.p_value)),
    ('procedure', procedure),
  ):
    command.append(f'--{flag}={name}' if name else '--gin_file=KNOBS.gin')
  return shlex.join(dict.fromkeys(command))


def _name(known: Mapping[str, Any], used: descriptions.Description) -> str:
  """The name of the choice that was used, '' if it has other knobs."""
  return next(
    (name for name, x in known.items() if descriptions.describe(x) == used), ''
  )


def _of_split(pair, manifests) -> list[contracts.Manifest]:
  split = pair.calibration.dump.split
  return [manifest for manifest in manifests if manifest.split == split]


def _settings(pair, manifests):
  calibration, evaluation = pair.calibration, pair.evaluation
  yield 'tolerance', f'{calibration.tolerance:g} (delta in CALM)'
  yield 'failure probability', f'{calibration.failure_prob:g} (epsilon in CALM)'
  yield 'consistency', calibration.consistency
  yield 'metric', calibration.metric
  yield 'p-value', str(calibration.p_value)
  yield 'testing procedure', str(calibration.procedure)
  yield 'reason', calibration.reason
  yield from _described(calibration.dump)
  for manifest in manifests:
    where = f'{manifest.split} dump'
    yield where, f'{manifest.num_examples:,} examples'
    yield f'{where}, data', manifest.data_digest
  yield 'machine', evaluation.machine
  yield (
    'timed',
    f'{evaluation.full.tokens_timed:,} tokens of the full and'
    f' {evaluation.calibrated.tokens_timed:,} of the calibrated model, in turn,'
    f' batch size {evaluation.batch_size}',
  )


def _described(record):
  """Its fields and those of records in it; a choice is one field."""
  for field in dataclasses.fields(record):
    value = getattr(record, field.name)
    if isinstance(value, contracts.ModelDescription):
      yield from _described(value)
    elif value is not None:
      yield field.name.replace('_', ' '), str(value)


def _versions(pair, manifests):
  for manifest in manifests:
    yield f'{manifest.split} dump', _listed(manifest.versions)
  yield 'evaluation', _listed(pair.evaluation.versions)


def _listed(values: Mapping[str, object]) -> str:
  return ', '.join(f'{name} {value}' for name, value in values.items())
