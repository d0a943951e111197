"""SHA-256 of whole files: what a download claims, against what arrived.

Neither safetensors nor an uncompressed zarr notices a flipped byte of data. The
sums come from a file SHA256SUMS next to the others, as the program sha256sum
writes it.
"""

import hashlib
import pathlib
import re
from collections.abc import Iterable

from calm_jax import errors
from calm_jax.records import json_records

FILE = 'SHA256SUMS'

# A star marks binary mode; names are relative to the file's folder.
_LINE = re.compile(r'([0-9a-fA-F]{64}) [ *](?:\./)?(.+)')
_CHUNK = 1 << 20


def write(directory: pathlib.Path, names: Iterable[str]) -> None:
  """Writes SHA256SUMS of files in `directory`.

  Raises:
    ResourceError: the file cannot be written.
  """
  lines = [f'{_sha256(directory / name)}  {name}\n' for name in sorted(names)]
  content = ''.join(lines).encode()
  json_records.write_bytes_atomically(directory / FILE, content)


def check(directory: pathlib.Path, names: Iterable[str] | None = None) -> None:
  """Compares files with the sums that are known of them.

  Args:
    directory: where the files and SHA256SUMS are.
    names: of files in it; all that SHA256SUMS lists and that are there if
      None.

  Raises:
    DataError: a file has another sum, or SHA256SUMS cannot be understood.
  """
  listed = _listed(directory / FILE)
  if names is None:
    names = [name for name in listed if (directory / name).is_file()]
  for name in names:
    path = directory / name
    expected = listed.get(name)
    if expected is None:
      continue
    found = _sha256(path)
    if found != expected:
      raise errors.DataError(
        f'{path} is damaged: its sha256 must be {expected[:12]}..., got'
        f' {found[:12]}...; download or copy it again.'
      )


def _listed(path: pathlib.Path) -> dict[str, str]:
  if not path.is_file():
    return {}
  listed = {}
  for number, line in enumerate(_read_lines(path), 1):
    match = _LINE.fullmatch(line)
    if match is None or not _is_below(pathlib.PurePosixPath(match[2])):
      raise errors.DataError(
        f'{path} must hold lines as sha256sum writes them, a sum and a name'
        f' below its folder; line {number} is {line[:80]!r}.'
      )
    listed[match[2]] = match[1].lower()
  return listed


def _is_below(name: pathlib.PurePosixPath) -> bool:
  return not name.is_absolute() and '..' not in name.parts


def _read_lines(path: pathlib.Path) -> list[str]:
  try:
    return path.read_text(encoding='utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise errors.DataError(f'{path} is not text; make it again.') from error


def _sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  try:
    with open(path, 'rb') as file:
      while chunk := file.read(_CHUNK):
        digest.update(chunk)
  except OSError as error:
    raise errors.DataError(
      f'{path} cannot be read: {error.strerror or error}.'
    ) from error
  return digest.hexdigest()
