"""Strict JSON for the small records that cross stages.

`contracts.py` defines the records; this module turns them into JSON and back.
Strict means: no NaN or infinity, no unknown or repeated fields, none missing
that has no default, no value of another type, one schema version. Each failure
is one `DataError` that names the file and the field. A record's file carries a
digest of its fields, so that a flipped digit of a threshold is found, too.
Standard library only.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

from calm_jax import errors

# Of the files of models and training. A version is raised where a field changes
# its meaning, so that an old reader refuses.
SCHEMA_VERSION = 1
# Of what crosses stages: one version, so that a manifest that is given in place
# of a calibration is called that, and not an old one. 2: choices are no texts.
RESULTS_VERSION = 2
# Beside a record's fields in its file. Without it a file is read unchecked.
_DIGEST = 'record_sha256'

_R = TypeVar('_R', bound='Record')


@dataclasses.dataclass(frozen=True)
class Record:
  """Mixin for frozen dataclasses: `to_json` and `from_json`."""

  def to_json(self) -> dict[str, Any]:
    """Returns nested dicts, lists, strings and numbers."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Any, where: str = '') -> Self:
    """Builds the record from parsed JSON.

    Args:
      fields: what `json.loads` gave.
      where: the file's name, for messages.

    Raises:
      DataError: another schema version, a missing or unknown field, a value of
        the wrong type or one that the record itself refuses.
    """
    return _record(cls, fields, where or cls.__name__)


def write_bytes_atomically(path: str | os.PathLike, content: bytes) -> None:
  """Writes to a temporary name next to `path`, then renames.

  A reader sees the old file or the new one, never a part.

  Raises:
    ResourceError: the operating system refused (full disk, no permission).
  """
  write_parts_atomically(path, [content])


def write_parts_atomically(
  path: str | os.PathLike, parts: Iterable[bytes]
) -> None:
  """`write_bytes_atomically` of content that memory may not hold at once.

  Raises:
    ResourceError: the operating system refused (full disk, no permission).
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  with explained(path):
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(temporary, 'wb') as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      # Where a file stands in place of the folder, there is nothing to remove.
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
  """Turns the operating system's errors into a ResourceError."""
  try:
    yield
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot write {path}: {error.strerror or error}. Free space or choose'
      ' a directory that you may write to.'
    ) from error


def write_json_atomically(path: str | os.PathLike, value: Any) -> None:
  """Writes a `Record`, or anything that JSON can hold, as indented JSON.

  A record's digest is written with it.

  Raises:
    NumericError: a number in it is NaN or infinite; nothing is written.
    ResourceError: the file cannot be written.
  """
  fields = value.to_json() if isinstance(value, Record) else value
  try:
    if isinstance(value, Record):
      fields |= {_DIGEST: _digest(fields)}
    # Escaped to ASCII: any text survives, even a lone surrogate.
    text = json.dumps(fields, indent=2, allow_nan=False)
  except ValueError as error:
    raise errors.NumericError(
      f'{path} was not written: it would hold NaN or infinity at'
      f' {_non_finite(fields) or "an unknown place"}, and every number must be'
      ' finite.'
    ) from error
  write_bytes_atomically(path, (text + '\n').encode('ascii'))


def read_json(
  path: str | os.PathLike, record: type[_R] | None = None
) -> _R | Any:
  """Reads one JSON file; with `record`, as an instance of that class.

  Raises:
    DataError: the file is missing, truncated, not strict JSON, of another
      schema version, does not fit the record, or was altered.
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding='utf-8')
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
    raise errors.DataError(
      f'{path} does not exist or is not a file; give the JSON file that the'
      ' stage before this one wrote.'
    ) from error
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot read {path}: {error.strerror or error}.'
    ) from error
  except UnicodeDecodeError as error:
    raise errors.DataError(f'{path} is not UTF-8 text, so not JSON.') from error
  try:
    fields = json.loads(
      text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
    )
  except (ValueError, RecursionError) as error:
    raise errors.DataError(
      f'{path} is not valid JSON, perhaps truncated ({len(text)} characters):'
      f' {error}. Rerun the stage that writes it.'
    ) from error
  if record is None:
    return fields
  digest = fields.pop(_DIGEST, None) if isinstance(fields, dict) else None
  result = record.from_json(fields, str(path))
  if digest is not None and digest != _digest(fields):
    raise errors.DataError(
      f'{path} was altered after it was written: its fields must have the'
      f' {_DIGEST} {str(digest)[:12]}..., but have {_digest(fields)[:12]}....'
      ' Rerun the stage that writes it; to accept a change of your own, remove'
      f' {_DIGEST}.'
    )
  return result


def check_schema_version(
  version: Any, where: str, expected: int = SCHEMA_VERSION
) -> None:
  """Raises a `DataError` that names the version needed."""
  if version != expected or isinstance(version, bool):
    raise errors.DataError(
      f'{where} has schema version {version!r}, but this calm_jax reads'
      f' version {expected}; use the calm_jax that wrote it, or write it again.'
    )


def _digest(fields: Any) -> str:
  """SHA-256 of the values, however their file is indented."""
  text = json.dumps(fields, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode('ascii')).hexdigest()


def _refuse_constant(name: str) -> None:
  raise ValueError(f'the number {name} is not strict JSON')


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields = dict(pairs)
  if len(fields) != len(pairs):
    raise ValueError('a field appears twice in one object')
  return fields


def _non_finite(value: Any, where: str = '') -> str:
  """Returns the path of the first NaN or infinity, '' if there is none."""
  if isinstance(value, float):
    return '' if math.isfinite(value) else where
  if isinstance(value, dict):
    children = [(f'{where}.{key}', item) for key, item in value.items()]
  elif isinstance(value, list | tuple):
    children = [(f'{where}[{i}]', item) for i, item in enumerate(value)]
  else:
    children = []
  for name, item in children:
    if found := _non_finite(item, name):
      return found
  return ''


def _record(cls: type[_R], fields: Any, where: str) -> _R:
  if not isinstance(fields, dict):
    raise errors.DataError(
      f'{where} must be a JSON object, got {type(fields).__name__}.'
    )
  by_name = {field.name: field for field in dataclasses.fields(cls)}
  names = list(by_name)
  # A field that was added later has a default, so that older files are read.
  required = [
    field.name
    for field in by_name.values()
    if field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  ]
  # First, because other fields may differ only because the version does.
  if 'schema_version' in names:
    expected = by_name['schema_version'].default
    if expected is dataclasses.MISSING:
      expected = SCHEMA_VERSION
    check_schema_version(fields.get('schema_version'), where, expected)
  missing = [name for name in required if name not in fields]
  unknown = sorted(set(fields) - set(names))
  if missing or unknown:
    raise errors.DataError(
      f'{where} does not fit {cls.__name__}: missing fields {missing}, unknown'
      f' fields {unknown}.'
    )
  hints = typing.get_type_hints(cls)
  values = {
    name: converted(hints[name], fields[name], f'{where}: {name}')
    for name in names
    if name in fields
  }
  try:
    return cls(**values)
  except errors.DataError as error:
    raise errors.DataError(f'{where}: {error}') from error


def converted(hint: Any, value: Any, where: str) -> Any:
  """Returns a value of parsed JSON as the annotated type.

  Args:
    hint: bool, int, float, str, `X | None`, `tuple[X, ...]`, `dict[str, X]`, a
      `Record`, or `Any` for what JSON holds.
    value: from `json.loads`.
    where: its place, for messages.

  Raises:
    DataError: it is of another type.
  """
  if hint is Any:
    return value
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):  # only `X | None` is used
    return None if value is None else converted(arguments[0], value, where)
  if origin is tuple and isinstance(value, list):
    return tuple(
      converted(arguments[0], item, f'{where}[{i}]')
      for i, item in enumerate(value)
    )
  if origin is dict and isinstance(value, dict):
    return {
      key: converted(arguments[1], item, f'{where}.{key}')
      for key, item in value.items()
    }
  if isinstance(hint, type) and issubclass(hint, Record):
    return _record(hint, value, where)
  if hint is float:
    # The bound refuses 1e999, which Python parses as infinity.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) <= sys.float_info.max:
      return float(value)
  # `type is`, because True is an instance of int.
  elif origin is None and type(value) is hint:
    return value
  expected = getattr(hint, '__name__', str(hint))
  raise errors.DataError(
    f'{where} must be {expected}, got {type(value).__name__}'
    f' {str(value)[:40]!r}.'
  )
