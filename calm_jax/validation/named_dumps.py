"""Dumps that can be compared: of the same examples, in one order, each named.

    directories --read, checked, sorted by id--> NamedDump per measure

`validate_dumps` tries every rule on them.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from calm_jax import errors
from calm_jax.dump import reader
from calm_jax.records import contracts
from calm_jax.validation import replay

# The schedule that needs no words.
_CONSTANT = 'ConstantThreshold'


@dataclasses.dataclass(frozen=True, eq=False)
class NamedDump:
  """A dump, its examples sorted by id, and its short name."""

  name: str
  manifest: contracts.Manifest
  data: contracts.Dump

  @property
  def can_be_replayed(self) -> bool:
    """Whether its measure decides by confidences."""
    return replay.can_be_replayed(self.manifest.model)


def read_dumps(directories: Sequence[str | os.PathLike]) -> list[NamedDump]:
  """Reads dumps that can be compared.

  Raises:
    DataError: a dump is damaged or incomplete, stopped before the end of its
      grid, holds other examples than the first, or is given twice.
  """
  opened = [reader.read_dump(directory) for directory in directories]
  names = _short_names([manifest for manifest, _ in opened], directories)
  dumps = []
  for name, (manifest, data) in zip(names, opened, strict=True):
    _check_complete(name, manifest)
    dumps.append(NamedDump(name, manifest, _sorted_by_id(data)))
    _check_same_examples(dumps[0], dumps[-1])
  if repeated := sorted({name for name in names if names.count(name) > 1}):
    raise errors.DataError(
      f'Every dump needs a name of its own, but {repeated} come twice; give'
      ' each dump once, in folders with different names.'
    )
  return dumps


def _short_names(
  manifests: Sequence[contracts.Manifest],
  directories: Sequence[str | os.PathLike],
) -> list[str]:
  """The measures' names, with as much as is needed to tell them apart."""
  folders = [pathlib.Path(directory).name for directory in directories]
  spellings = [
    (measure.kind, str(measure), f'{measure.kind} in {folder}')
    for measure, folder in zip(
      [x.model.measure for x in manifests], folders, strict=True
    )
  ]
  schedules = [
    '' if kind == _CONSTANT else f' with {kind}'
    for kind in (x.model.threshold_schedule.kind for x in manifests)
  ]
  for kind in range(3):
    names = [
      spelling[kind] + schedule
      for spelling, schedule in zip(spellings, schedules, strict=True)
    ]
    if len(set(names)) == len(names):
      break
  return names


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
