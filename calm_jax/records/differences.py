"""Where two records differ, by the names that people know."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from calm_jax.records import descriptions, json_records


def differences(
  there: json_records.Record, here: json_records.Record
) -> dict[str, tuple[Any, Any]]:
  """What is not equal in two records of one class.

  Returns:
    Name -> the values there and here. Names are of fields, those of nested
    records among them; of knobs, as 'measure.k', where both are of one kind;
    and of entries, as 'versions.jax', where both have the same ones.
  """
  return dict(_differing('', there, here))


def _differing(
  name: str, there: Any, here: Any
) -> Iterator[tuple[str, tuple[Any, Any]]]:
  if there == here:
    return
  ours, theirs = _parts(name, there), _parts(name, here)
  if not ours or ours.keys() != theirs.keys():
    yield name, (there, here)
    return
  for part in ours:
    yield from _differing(part, ours[part], theirs[part])


def _parts(name: str, value: Any) -> dict[str, Any]:
  """What can be compared one by one, by name; {} for a value as a whole."""
  if isinstance(value, descriptions.Description):
    # The kind is a part without a value, so that kinds are not mixed.
    knobs = {f'{name}.{knob}': x for knob, x in value.knobs.items()}
    return knobs and {value.kind: None} | knobs
  if isinstance(value, json_records.Record):
    names = [field.name for field in dataclasses.fields(value)]
    return {x: getattr(value, x) for x in names}
  if isinstance(value, dict):
    return {f'{name}.{key}': x for key, x in value.items()}
  return {}
