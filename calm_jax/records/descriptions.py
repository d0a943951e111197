"""A choice written down as data: its kind and its knobs.

    frozen dataclass --describe--> Description <--> JSON

A measure, a schedule or a sampler is a small frozen dataclass; most need JAX.
What crosses stages is its description, which needs nothing, is compared and
hashed whole, and is never parsed from text. `kinds` knows those that ship.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.records import json_records, kinds


@dataclasses.dataclass(frozen=True)
class Description(json_records.Record):
  """A kind of choice with its knobs.

  Attributes:
    kind: name of the class, with its module where that is not of calm_jax.
    knobs: its fields by name: None, booleans, numbers, texts, tuples and dicts
      of these, and descriptions.

  Raises:
    ConfigError: when made, if a knob is something else.
    DataError: if a kind that ships has other knobs.
  """

  kind: str
  knobs: dict[str, Any]

  def __post_init__(self):
    plain = {
      name: _plain(value, f'{self.kind}.{name}')
      for name, value in self.knobs.items()
    }
    checked = kinds.checked(self.kind, plain)
    knobs = {name: _frozen(value) for name, value in checked.items()}
    object.__setattr__(self, 'knobs', knobs)

  def __str__(self) -> str:
    """'Kind(knob=value)', for people; nothing parses it."""
    knobs = ', '.join(f'{name}={value!r}' for name, value in self.knobs.items())
    return f'{self.kind}({knobs})'

  __repr__ = __str__

  @property
  def name(self) -> str:
    """Short, as tables have it: 'softmax gap'."""
    known = kinds.KINDS.get(self.kind)
    if known is None or not known.name:
      return self.kind.rpartition('.')[2]
    return known.name(**self.knobs) if callable(known.name) else known.name


def describe(choice: Any) -> Description:
  """What decides the results of a choice.

  Args:
    choice: a frozen dataclass whose fields are its knobs: plain values, arrays
      (of which the digest counts), or such dataclasses again.

  Raises:
    ConfigError: it is no such dataclass, or a knob has another type than the
      class says.
  """
  if isinstance(choice, type) or not dataclasses.is_dataclass(choice):
    raise errors.ConfigError(
      'A choice is written down as data, so it must be a frozen dataclass whose'
      f' fields are its knobs, got {choice!r}.'
    )
  names = [field.name for field in dataclasses.fields(choice)]
  knobs = {name: getattr(choice, name) for name in names}
  try:
    return Description(kind_of(type(choice)), knobs)
  except errors.DataError as error:
    raise errors.ConfigError(str(error)) from error


def kind_of(cls: type) -> str:
  """The name of a class; with its module where that is not of calm_jax."""
  if cls.__module__.partition('.')[0] == 'calm_jax':
    return cls.__qualname__
  return f'{cls.__module__}.{cls.__qualname__}'


def _plain(value: Any, where: str) -> Any:
  """A knob as `json.loads` would give it."""
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, Description):
    return {'kind': value.kind, 'knobs': _plain(value.knobs, where)}
  if isinstance(value, list | tuple):
    return [_plain(item, where) for item in value]
  if isinstance(value, Mapping):
    return {str(name): _plain(item, where) for name, item in value.items()}
  if dataclasses.is_dataclass(value):
    return _plain(describe(value), where)
  if isinstance(value, np.generic):
    return value.item()
  if hasattr(value, '__array__'):
    return _plain(_described_array(np.asarray(value)), where)
  raise errors.ConfigError(
    f'{where} must be a number, a text, an array, a frozen dataclass, or a'
    ' sequence or mapping of these, so that it can be written down as data, got'
    f' {value!r}.'
  )


def _described_array(array: np.ndarray) -> Description:
  return Description(
    'array',
    {
      'dtype': str(array.dtype),
      'shape': array.shape,
      'sha256': hashlib.sha256(array.tobytes()).hexdigest(),
    },
  )


def _frozen(value: Any) -> Any:
  """The same with tuples for lists, and with descriptions."""
  if isinstance(value, list | tuple):
    return tuple(_frozen(item) for item in value)
  if not isinstance(value, dict):
    return value
  if value.keys() == {'kind', 'knobs'}:
    return Description.from_json(value)
  return {name: _frozen(item) for name, item in value.items()}
