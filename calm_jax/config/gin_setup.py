"""Gin files and bindings -> gin's configuration, with errors that help.

    files, in order --> bindings of the command line --> checks (gin_checks)

Gin files can import and call any Python code: parse only files you trust, or
keep them to a list of modules (gin_imports). Nothing else in calm_jax parses
gin, and a file is parsed only where the user names it.
"""

import contextlib
import copy
import difflib
import importlib.util  # noqa: F401  gin 0.5 uses it without importing it.
import logging
import os
import pathlib
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, NoReturn

import gin

from calm_jax import errors
from calm_jax.config import gin_checks, gin_errors, gin_imports, moved_names

_GIN_ERRORS = (
  SyntaxError,
  tokenize.TokenError,
  ValueError,
  NameError,
  AttributeError,
)


def gin_root() -> pathlib.Path:
  """The folder that holds `gin/experiments` and the other shipped files."""
  package = pathlib.Path(__file__).parents[1]
  checkout = package.parent
  if (checkout / 'gin' / 'experiments').is_dir():
    return checkout
  return package / 'configs'  # where setup.py puts gin/ in a wheel


def search_directories(search_paths: str) -> list[pathlib.Path]:
  """The user's comma-separated folders, then the shipped files' one."""
  folders = [pathlib.Path(x).expanduser() for x in search_paths.split(',') if x]
  return [*folders, gin_root()]


def parse(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  search_paths: str = '.',
  stage_macros: Set[str] = frozenset(),
  allow_imports: str | None = None,
) -> None:
  """Replaces gin's configuration by files and then bindings.

  Args:
    gin_files: names below one of the search paths, or absolute.
    gin_bindings: 'NAME = VALUE' each.
    search_paths: comma-separated folders; also put on sys.path, so that gin
      files may import the user's modules.
    stage_macros: macros that the stage reads itself, so they count as used.
    allow_imports: comma-separated modules that the files may import beside
      those of calm_jax's own files; None is any module.

  Raises:
    ConfigError: a file is missing; a binding is not a gin value; a name is
      unknown; a macro of the user's is used nowhere or has another type than
      its default; a file uses a module that is not allowed.
  """
  gin.clear_config()
  folders = search_directories(search_paths)
  _extend_sys_path(folders[:-1])
  if allow_imports is not None:
    _check_imports(gin_files, folders, allow_imports)
  for binding in gin_bindings:
    gin_checks.check_value(binding)
  with _gin_searching(folders), _quiet_gin():
    for name in gin_files:
      _parse_file(name, folders)
    defaults = gin_checks.macro_values()
    _parse_bindings(gin_bindings)
  gin_checks.check_types(defaults)
  user_names = gin_checks.macro_names('\n'.join(gin_bindings))
  for name in gin_files:
    path = find_file(name, folders)
    if not path.resolve().is_relative_to(gin_root() / 'gin'):
      user_names |= gin_checks.macro_names(path.read_text(encoding='utf-8'))
  gin_checks.check_macros_are_used(user_names, stage_macros)


def macro(name: str, default: Any = None) -> Any:
  """The value of a macro, with references in it called; else the default.

  Raises:
    ConfigError: the value needs macros that are required or undefined.
  """
  if name not in gin_checks.macro_values():
    return default
  gin_checks.check_complete(f'%{name}')
  return copy.deepcopy(gin_checks.macro_values()[name])


def absolute_path_macro(name: str) -> pathlib.Path:
  """The folder that macro `name` gives, made absolute for all who use it.

  Raises:
    ConfigError: the macro is not a string, or names a bucket.
  """
  value = gin_checks.macro_values().get(name)
  if not isinstance(value, str) or not value:
    raise errors.ConfigError(
      f'{name} must name a folder, got {value!r}. For example:'
      f' {gin_checks.EXAMPLES.get(name, name)}'
    )
  if '://' in value:
    raise errors.ConfigError(
      f'{name} must be a local folder, got {value!r}; copy it to a bucket with'
      ' gcloud storage rsync, or mount the bucket (gcsfuse).'
    )
  path = pathlib.Path(value).expanduser().absolute()
  gin.bind_parameter(f'{name}/gin.macro.value', str(path))
  return path


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function` with its bindings applied, checked to be complete.

  Raises:
    ConfigError: required or undefined macros, all of them at once.
  """
  try:
    wrapped = gin.get_configurable(function)
  except (KeyError, ValueError):
    wrapped = gin.external_configurable(
      function, name=function.__name__, module=function.__module__
    )
  gin_checks.check_complete(function)
  return wrapped


def call(function: Callable[..., Any]) -> Any:
  """Calls `function` with its bindings.

  Raises:
    ConfigError: something required is missing, or an argument is of the wrong
      kind.
  """
  wrapped = configured(function)
  try:
    return wrapped()
  except RuntimeError as error:
    if 'Required bindings' not in str(error):
      raise
    raise errors.ConfigError(f'{error}. Bind them in a gin file.') from error


def find_file(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path:
  """The first match of a gin file's name.

  Raises:
    ConfigError: none; says where it was searched and what is there.
  """
  for folder in folders:
    path = folder / pathlib.Path(name).expanduser()
    if path.is_file():
      return path
  shipped = sorted(
    str(path.relative_to(gin_root()))
    for path in (gin_root() / 'gin').rglob('*.gin')
  )
  near = difflib.get_close_matches(name, shipped, n=1)
  hint = f' Did you mean {near[0]}?' if near else ''
  raise errors.ConfigError(
    f'The gin file {name} must exist in one of the folders'
    f' {", ".join(str(x) for x in folders)}.{hint} Add a folder with'
    ' --gin_search_paths.'
  )


def _check_imports(
  gin_files: Sequence[str], folders: Sequence[pathlib.Path], allowed: str
) -> None:
  """Raises ConfigError where a file uses what is not allowed; runs none."""
  modules = gin_imports.parse_flag(allowed)
  check = gin_imports.AllowedImports(modules, gin_root()).check
  for name in gin_files:
    with _explained(name, folders):
      check(find_file(name, folders), lambda x: find_file(x, folders))


def _parse_file(name: str, folders: Sequence[pathlib.Path]) -> None:
  path = find_file(name, folders)
  with _explained(name, folders), _moved_names_told(path):
    # Absolute, or gin would look for it below the search paths.
    gin.parse_config_file(str(path.absolute()))


@contextlib.contextmanager
def _explained(name: str, folders: Sequence[pathlib.Path]) -> Iterator[None]:
  """Turns what reading a gin file may raise into a ConfigError."""
  try:
    yield
  except OSError as error:
    message = str(error).partition('. Searched')[0]
    raise errors.ConfigError(
      f'{name} includes a file that is not there: {message}. Searched:'
      f' {", ".join(str(x) for x in folders)}.'
    ) from error
  except ImportError as error:
    place, message = gin_errors.place_and_message(error)
    raise errors.ConfigError(
      f'{place}{name} imports what cannot be imported: {message}. Install it,'
      ' or add its folder with --gin_search_paths.'
    ) from error
  except UnicodeDecodeError as error:
    raise errors.ConfigError(
      f'{find_file(name, folders)}, or a file that it includes, must be UTF-8'
      f' text, but it is not: {error.reason} at byte {error.start}.'
    ) from error
  except _GIN_ERRORS as error:
    _raise_explained(error, name)
  except errors.CalmError:
    raise
  except Exception as error:  # A module of the user's may raise anything.
    place, message = gin_errors.place_and_message(error)
    kind = type(error.__cause__ or error).__name__
    raise errors.ConfigError(
      f'{place}{name} imports a module that fails: {kind}: {message}. Mend it;'
      ' --v=1 shows where.'
    ) from error


@contextlib.contextmanager
def _moved_names_told(path: pathlib.Path) -> Iterator[None]:
  """Raises ConfigError where gin failed on a file of an earlier version."""
  try:
    yield
  except (ImportError, *_GIN_ERRORS) as error:
    failed = gin_errors.file_of(error) or path
    text = failed.read_text(encoding='utf-8', errors='replace')
    if not (moved := moved_names.moved_in(text)):
      raise
    lines = [f'{before} is now {now}' for before, now in moved.items()]
    raise errors.ConfigError(
      f'{failed} must use the names of this version:\n  ' + '\n  '.join(lines)
    ) from error


def _parse_bindings(gin_bindings: Sequence[str]) -> None:
  try:
    gin.parse_config(list(gin_bindings))
  except _GIN_ERRORS as error:
    _raise_explained(error, 'the command line')


def _raise_explained(error: Exception, where: str) -> NoReturn:
  message = gin_errors.explain(error)
  if message is None:
    first_line = str(error).strip().partition('\n')[0]
    message = f'Gin cannot read {where}: {first_line or type(error).__name__}'
  raise errors.ConfigError(message) from error


def _extend_sys_path(folders: Sequence[pathlib.Path]) -> None:
  for folder in folders:
    if str(folder.absolute()) not in sys.path:
      sys.path.append(str(folder.absolute()))


@contextlib.contextmanager
def _gin_searching(folders: Sequence[pathlib.Path]) -> Iterator[None]:
  """Makes gin search exactly these folders for included files."""
  # There is a public way to add folders, but none to remove or order them.
  prefixes = gin.config._LOCATION_PREFIXES
  before = list(prefixes)
  prefixes[:] = [os.fspath(folder) for folder in folders]
  try:
    yield
  finally:
    prefixes[:] = before


@contextlib.contextmanager
def _quiet_gin() -> Iterator[None]:
  """Drops gin's error log for each folder that does not hold a file."""

  def is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith('Path not found')

  logging.getLogger().addFilter(is_news)
  try:
    yield
  finally:
    logging.getLogger().removeFilter(is_news)
