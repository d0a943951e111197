"""Which modules gin files may import: an allow-list for shared configurations.

    files, with what they include --gin's parser--> statements --> checked

Every statement is looked at before the first one takes effect. Three things in
a gin file reach Python: imports; names, which gin resolves attribute by
attribute, so that `module.os.system` needs no import of os; and text like
'package.module:function', which some settings import. All must stay within the
list. This keeps a file from calling what it pleases; it is no sandbox: a file
still decides what is trained and where that is written.
"""

import functools
import importlib
import pathlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gin import config_parser

from calm_jax import errors
from calm_jax.metrics import text_metrics

_PACKAGE = 'calm_jax'


class _Reference(str):
  """The name of a configurable, where a value refers to one."""


class _Delegate(config_parser.ParserDelegate):
  """Resolves nothing, unlike gin's own."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return _Reference(scoped_configurable_name.rpartition('/')[2])

  def macro(self, macro_name):
    return None


class AllowedImports:
  """The modules that gin files may use: those of our own files, and more."""

  def __init__(self, more: Sequence[str], gin_root: pathlib.Path):
    """Lists them.

    Args:
      more: packages or modules; what is below them is allowed too.
      gin_root: folder of the files that ship with calm_jax; what of calm_jax
        they import is allowed, and no other part of it.
    """
    self.more = tuple(more)
    self._own = _imports_of_shipped_files(gin_root)

  def allows(self, module: str | None) -> bool:
    """Whether a module, by its full name, is in the list."""
    module = module or ''
    return module in self._own or any(
      f'{module}.'.startswith(f'{name}.') for name in self.more
    )

  def check(
    self, path: pathlib.Path, find: Callable[[str], pathlib.Path]
  ) -> None:
    """Looks through a gin file and all that it includes; imports nothing else.

    Args:
      path: the file.
      find: gives the file that an include statement names.

    Raises:
      ConfigError: it uses a module outside of the list; with file and line.
      SyntaxError, tokenize.TokenError: it is no gin file.
    """
    self._check(path, find, set())

  def _check(self, path, find, seen: set[pathlib.Path]) -> None:
    if path in seen:
      return
    seen.add(path)
    modules = {}
    for statement in _statements(path):
      if isinstance(statement, config_parser.IncludeStatement):
        self._check(find(statement.filename), find, seen)
      elif isinstance(statement, config_parser.ImportStatement):
        self._check_import(statement)
        modules[statement.bound_name()] = statement
      else:
        for name in _names_in(statement):
          self._check_name(name, modules, statement.location)

  def _check_import(self, statement: config_parser.ImportStatement) -> None:
    if statement.module.startswith('__gin__.'):
      return
    if not self.allows(statement.module):
      raise self._refused(statement.location, f'imports {statement.module}')

  def _check_name(self, name: str, modules, location) -> None:
    if not isinstance(name, _Reference):
      module = name.partition(':')[0]
      if text_metrics.names_a_function(name) and not self.allows(module):
        raise self._refused(location, f'names a function of {module}')
      return
    root, *attributes = name.split('.')
    if root not in modules:
      if root == 'gin' and len(attributes) > 1:  # Into gin.macro's inside.
        raise self._refused(location, f'reaches {name}')
      return  # A macro, gin's own, or unknown: gin says so.
    for found in _resolved(modules[root], attributes):
      home = _module_of(found)
      # Packages on the way to an allowed module, as `calm_jax` itself.
      if not self.allows(home) and not self._is_above(found):
        raise self._refused(location, f'reaches {name} in {home or "nobody"}')

  def _is_above(self, found: Any) -> bool:
    return isinstance(found, types.ModuleType) and any(
      name.startswith(f'{found.__name__}.') for name in (*self._own, *self.more)
    )

  def _refused(self, location, what: str) -> errors.ConfigError:
    line = (location.line_content or '').strip()
    allowed = ', '.join(self.more) or 'nothing'
    return errors.ConfigError(
      f'{location.filename}:{location.line_num}: `{line}`: this file {what},'
      f' but --gin_allow_imports allows {allowed} beside what the files of'
      f' {_PACKAGE} import. Read the file and what it uses; if you trust them,'
      ' add the module there, or leave out the flag.'
    )


def parse_flag(text: str) -> tuple[str, ...]:
  """'a,b.c' -> ('a', 'b.c').

  Raises:
    ConfigError: something in it is no name of a module.
  """
  names = tuple(name.strip() for name in text.split(',') if name.strip())
  for name in names:
    if not all(part.isidentifier() for part in name.split('.')):
      raise errors.ConfigError(
        '--gin_allow_imports must be names of modules joined by commas, as'
        f' my_project,seqio, got {name!r}.'
      )
  return names


@functools.cache
def _imports_of_shipped_files(gin_root: pathlib.Path) -> frozenset[str]:
  return frozenset(
    statement.module
    for path in (gin_root / 'gin').rglob('*.gin')
    for statement in _statements(path)
    if isinstance(statement, config_parser.ImportStatement)
    and statement.module.startswith(f'{_PACKAGE}.')
  )


def _statements(path: pathlib.Path) -> Iterator[Any]:
  with open(path, encoding='utf-8') as file:
    yield from config_parser.ConfigParser(file, _Delegate())


def _names_in(statement: Any) -> Iterator[str]:
  """References and texts of a binding or of the head of a block."""
  yield _Reference(statement.selector)
  if isinstance(statement, config_parser.BindingStatement):
    yield from _texts_in(statement.value)


def _texts_in(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict):
    for item in value.items():
      yield from _texts_in(item)
  elif isinstance(value, list | tuple | set):
    for item in value:
      yield from _texts_in(item)


def _resolved(statement: Any, attributes: Sequence[str]) -> Iterator[Any]:
  """What gin would find on the way along the attributes; modules are allowed.

  The module itself has been checked by its statement.
  """
  found: Any = importlib.import_module(statement.module)
  if not statement.is_from and not statement.alias:
    found = importlib.import_module(statement.module.partition('.')[0])
  for attribute in attributes:
    found = getattr(found, attribute, None)
    if found is None:
      return  # Gin says what is missing.
    yield found


def _module_of(found: Any) -> str | None:
  if isinstance(found, types.ModuleType):
    return found.__name__
  return getattr(found, '__module__', None)
