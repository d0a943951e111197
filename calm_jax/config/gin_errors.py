"""Gin's own errors as one sentence with the place and the nearest name."""

import difflib
import inspect
import pathlib
import re
import sys
from collections.abc import Iterable

import gin

_LOCATION = re.compile(
  r'\s+In (?:file "(?P<file>[^"]*)", line (?P<line>\d+)'
  r'|bindings string(?: line \d+)?)\n(?P<text>.*)',
  re.DOTALL,
)
_NO_ATTRIBUTE = re.compile(
  r"Couldn't resolve selector .*<module '(?P<module>[\w.]+)'.* has no attribute"
  r' (?P<name>\w+)'
)
_NO_PARAMETER = re.compile(
  r"Configurable '(?P<selector>[\w.]+)' doesn't have a parameter named"
  r" '(?P<name>\w+)'"
)
_NO_CONFIGURABLE = re.compile(
  r"No configurable matching (?:reference )?'@?(?P<name>[\w./]+)"
)
_NO_IMPORT = re.compile(r"'(?P<name>\w+)' was not provided by an import")


def explain(error: Exception) -> str | None:
  """What is wrong, where and what may be meant; None for a foreign error."""
  place, bare = place_and_message(error)
  sentence = _sentence(bare)
  if sentence is None and isinstance(error, SyntaxError):
    sentence = f'This is not gin: {bare}'
  return None if sentence is None else f'{place}{sentence}'


def place_and_message(error: Exception) -> tuple[str, str]:
  """('FILE:LINE: `text`: ' or '', what gin wrote before the place)."""
  message = str(error)
  location = _LOCATION.search(message)
  bare = message[: location.start()] if location else message
  return _place(location), ' '.join(bare.split())


def file_of(error: Exception) -> pathlib.Path | None:
  """The file that gin stopped in, where its message names one."""
  location = _LOCATION.search(str(error))
  return (
    pathlib.Path(location['file']) if location and location['file'] else None
  )


def _sentence(message: str) -> str | None:
  if match := _NO_ATTRIBUTE.search(message):
    known = _public_names(match['module'])
    return (
      f'{match["module"]} has no {match["name"]}.{_hint(match["name"], known)}'
    )
  if match := _NO_PARAMETER.search(message):
    known = _parameters(match['selector'])
    return (
      f'{match["selector"]} has no parameter {match["name"]}.'
      f'{_hint(match["name"], known)} Its parameters: {", ".join(known)}.'
    )
  if match := _NO_CONFIGURABLE.search(message):
    name = match['name'].rpartition('/')[2]
    return f'Nothing is called {name}.{_hint(name, _selectors(name))}'
  if match := _NO_IMPORT.search(message):
    modules = {
      name.rpartition('.')[2]
      for name in sys.modules
      if name.startswith('calm_jax.')
    }
    return (
      f'{match["name"]} is not imported by this file.'
      f'{_hint(match["name"], modules)}'
    )
  return None


def _place(location: re.Match | None) -> str:
  if location is None:
    return ''
  text = location['text'].strip().partition('\n')[0]
  if location['file']:
    return f'{location["file"]}:{location["line"]}: `{text}`: '
  return f'`{text}`: '


def _hint(name: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, list(known), n=1)
  return f' Did you mean {near[0]}?' if near else ''


def _public_names(module: str) -> list[str]:
  names = vars(sys.modules.get(module, object)).keys()
  return [name for name in names if not name.startswith('_')]


def _parameters(selector: str) -> list[str]:
  try:
    configurable = gin.config._REGISTRY.get_match(selector)
    return [
      name
      for name in inspect.signature(configurable.wrapped).parameters
      if name not in ('self', 'parent', 'name')
    ]
  except (AttributeError, KeyError, TypeError, ValueError):
    return []


def _selectors(like: str) -> list[str]:
  """Known selectors, shortened to as many parts as `like` has."""
  count = like.count('.') + 1
  known = gin.config._REGISTRY._selector_map
  return ['.'.join(name.split('.')[-count:]) for name in known]
