"""Errors that a user can act on, with the exit code of each kind.

Every message is one sentence or two: what was required, what was got and how to
fix it. The command line prints the message alone and leaves with `exit_code`.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class CalmError(Exception):
  """Base of all errors raised on purpose by calm_jax."""

  exit_code = 1


class ConfigError(CalmError):
  """A setting is unknown, of the wrong type or out of range."""

  exit_code = 2


class DataError(CalmError):
  """An input file or data set is missing, damaged or does not fit."""

  exit_code = 3


class ResourceError(CalmError):
  """The machine lacks something: disk, memory, permission, a device."""

  exit_code = 4


class NumericError(CalmError):
  """A computation gave NaN or infinity."""

  exit_code = 5


def unknown_name(what: str, name: Any, known: Iterable[str]) -> ConfigError:
  """Returns the error of a name that is not known, with the nearest that is."""
  names = sorted(known)
  near = difflib.get_close_matches(str(name), names, n=1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return ConfigError(f'The {what} must be one of {names}, got {name!r}.{hint}')
