"""What gin itself does not check, or says in a way that is hard to act on.

Gin takes a mistyped macro, a number in quotes and a forgotten value without a
word, and fails long after, or never.
"""

import difflib
import re
import tokenize
from collections.abc import Callable, Iterator, Set
from typing import Any

import gin

from calm_jax import errors

_ASSIGNMENT = re.compile(r'^([A-Za-z_]\w*)\s*=', re.MULTILINE)
_MACRO = 'gin.macro'

# One example of each macro that a shipped file leaves open.
EXAMPLES = {
  'MODEL_DIR': '--gin.MODEL_DIR=\'"runs/docstrings"\'',
  'MIXTURE_OR_TASK_NAME': (
    '--gin.MIXTURE_OR_TASK_NAME=\'"docstring_restoration"\''
  ),
  'TASK_FEATURE_LENGTHS': (
    '--gin.TASK_FEATURE_LENGTHS=\'{"inputs": 64, "targets": 64}\''
  ),
  'TRAIN_STEPS': '--gin.TRAIN_STEPS=10000',
  'CHECKPOINT_PATH': '--gin.CHECKPOINT_PATH=\'"runs/docstrings"\'',
  'DUMP_OUTPUT_DIR': '--gin.DUMP_OUTPUT_DIR=\'"runs/dump"\'',
  'INFER_OUTPUT_DIR': '--gin.INFER_OUTPUT_DIR=\'"runs/infer"\'',
}


def check_value(binding: str) -> None:
  """Raises ConfigError where a binding's value is no gin literal."""
  name, _, value = binding.partition('=')
  name, value = name.strip(), value.strip()
  try:
    gin.config.parse_value(value)
  except (SyntaxError, tokenize.TokenError) as error:
    raise errors.ConfigError(
      f'The value of {name} must be a number, a quoted string or another gin'
      f' literal, got {value}. For a string write --gin.{name}=\'"{value}"\'.'
    ) from error
  except ValueError:
    pass  # An unknown reference; gin says so better once files are parsed.


def macro_names(text: str) -> set[str]:
  """Names of the macros that a gin text defines."""
  return set(_ASSIGNMENT.findall(text))


def macro_values() -> dict[str, Any]:
  """The value of every macro defined so far."""
  return {
    scope: bindings['value']
    for (scope, selector), bindings in gin.config._CONFIG.items()
    if selector == _MACRO and 'value' in bindings
  }


def check_types(defaults: dict[str, Any]) -> None:
  """Raises ConfigError where a macro is no longer of its default's type."""
  for name, value in macro_values().items():
    default = defaults.get(name)
    if not _fits(value, default):
      raise errors.ConfigError(
        f'{name} must be of type {type(default).__name__}, as its default'
        f' {default!r}, got {value!r}.'
      )


def _fits(value: Any, default: Any) -> bool:
  sequences = (tuple, list)
  literals = (bool, int, float, str, dict, *sequences)
  if type(value) not in literals or type(default) not in literals:
    return True  # None and references may mean anything.
  if type(default) is float and type(value) is int:
    return True
  if type(default) in sequences:
    return type(value) in sequences
  return type(value) is type(default)


def check_macros_are_used(
  names: set[str], stage_macros: Set[str] = frozenset()
) -> None:
  """Raises ConfigError for a macro among `names` that nothing refers to.

  `stage_macros` are read by the stage itself.
  """
  references = gin.config.iterate_references(gin.config._CONFIG)
  used = {_macro_of(x) for x in references if _is_macro(x)} | stage_macros
  for name in sorted(names - used):
    known = sorted(used)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {near[0]}?' if near else f'known: {", ".join(known)}.'
    raise errors.ConfigError(f'The macro {name} is never used; {hint}')


def check_complete(root: Callable[..., Any] | str) -> None:
  """Raises ConfigError naming all macros that are still to be given.

  Args:
    root: the function that will be called, or '%NAME' for a macro's value.
  """
  defined = macro_values()
  missing, undefined = [], []
  for name in sorted(_macros_reached(root)):
    if name not in defined:
      undefined.append(name)
    elif is_required(defined[name]):
      missing.append(name)
  if undefined:
    near = difflib.get_close_matches(undefined[0], list(defined), n=1)
    hint = f' Did you mean %{near[0]}?' if near else ''
    raise errors.ConfigError(
      f'The macro %{undefined[0]} is used but defined nowhere.{hint}'
    )
  if missing:
    examples = (EXAMPLES.get(x, f'--gin.{x}=VALUE') for x in missing)
    raise errors.ConfigError(
      f'Values are required for {", ".join(missing)}. For example:'
      f' {" ".join(examples)}'
    )


def is_required(value: Any) -> bool:
  """Whether a macro's value is still %gin.REQUIRED."""
  return (
    isinstance(value, gin.config.ConfigurableReference)
    and value.scoped_selector == 'gin.REQUIRED/gin.constant'
  )


def _is_macro(reference: Any) -> bool:
  return reference.config_key[1] == _MACRO


def _macro_of(reference: Any) -> str:
  return '/'.join(reference.scopes)


def _macros_reached(root: Callable[..., Any] | str) -> set[str]:
  """Macros that calling `root` would evaluate."""
  if not isinstance(root, str):
    root = f'{root.__module__}.{root.__qualname__}'
  waiting = [root]
  seen: set[str] = set()
  while waiting:
    key = waiting.pop()
    if key in seen:
      continue
    seen.add(key)
    for reference in _references_of(key):
      name = _macro_of(reference)
      waiting.append(
        f'%{name}' if _is_macro(reference) else reference.config_key[1]
      )
  return {key[1:] for key in seen if key.startswith('%')}


def _references_of(key: str) -> Iterator[Any]:
  """References in the bindings of a macro ('%NAME') or a configurable."""
  for (scope, selector), bindings in gin.config._CONFIG.items():
    if key == (f'%{scope}' if selector == _MACRO else selector):
      yield from gin.config.iterate_references(bindings)
