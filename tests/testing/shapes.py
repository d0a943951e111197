"""Checks of arrays against jaxtyping's annotations, wherever tests call us."""

import dataclasses
import functools
import inspect
import sys
import types
import typing

import jaxtyping
import typeguard

_ALL = typeguard.CollectionCheckStrategy.ALL_ITEMS
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
  """Checks what is imported of calm_jax from now on.

  jaxtyping's import hook decorates every function and dataclass; only those
  with annotated arrays get a wrapper, for it would shift the line that a
  warning names, and cost time.
  """
  jaxtyping.jaxtyped = lambda typechecker: functools.partial(
    _where_arrays_are, typechecker=typechecker
  )
  jaxtyping.install_import_hook('calm_jax', f'{__name__}.checked')


def _where_arrays_are(decorated, typechecker):
  function = getattr(decorated, '__func__', decorated)
  if isinstance(decorated, property):
    function = decorated.fget
  elif isinstance(decorated, type):
    function = dataclasses.is_dataclass(decorated) and decorated.__init__
  hints = getattr(function, '__annotations__', {})
  if not any(map(_shaped, hints.values())):
    return decorated
  return _jaxtyped(decorated, typechecker=typechecker)


def checked(function):
  """`function`, which checks what jaxtyping annotates: arguments and result.

  Other annotations are mypy's: a test's stand-in need not be of the class that
  it stands for. NumPy's arrays may stand for JAX's, as everywhere in JAX.
  """
  hints = inspect.get_annotations(function)
  shapes = {x: _any_array(hint) for x, hint in hints.items() if _shaped(hint)}
  result_shape = shapes.pop('return', typing.Any)
  signature = inspect.signature(function)

  @functools.wraps(function)
  def checking(*args, **kwargs):
    if function.__name__ == '__init__' and _called_by_jax():
      return function(*args, **kwargs)  # A node of a tree, of any leaves.
    given = signature.bind(*args, **kwargs).arguments
    for name in shapes.keys() & given.keys():
      _check(given[name], shapes[name])
    result = function(*args, **kwargs)
    _check(result, result_shape)
    return result

  return checking


def _called_by_jax() -> bool:
  frame = sys._getframe(2)
  while frame.f_globals['__name__'].startswith('jaxtyping.'):
    frame = frame.f_back
  return frame.f_globals['__name__'].partition('.')[0] in ('jax', 'flax')


def _check(value, hint) -> None:
  # Every member of a tuple or dict, not only the first.
  typeguard.check_type(value, hint, collection_check_strategy=_ALL)


def _is_array(hint) -> bool:
  return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _shaped(hint) -> bool:
  return _is_array(hint) or any(map(_shaped, typing.get_args(hint)))


def _any_array(hint):
  """The hint with whatever has a shape and a type in place of JAX's array."""
  if _is_array(hint):
    return hint.dtype[typing.Any, hint.dim_str]
  if not _shaped(hint):
    return hint
  parts = tuple(map(_any_array, typing.get_args(hint)))
  if isinstance(hint, types.UnionType):
    return functools.reduce(lambda x, y: x | y, parts)
  return typing.get_origin(hint)[parts]
