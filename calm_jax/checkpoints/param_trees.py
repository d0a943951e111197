"""Parameter trees by name: flat views, expected shapes, exact comparison.

Every reader in this package ends here: what a file holds must be what the
network needs, name by name, before any value is used.
"""

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from calm_jax import errors
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5 import network


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves by name, the keys joined by '/': 'encoder/encoder_norm/scale'."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {'/'.join(map(_key_name, path)): leaf for path, leaf in leaves}


def unflatten(named: Mapping[str, Any]) -> dict[str, Any]:
  """Inverse of `flatten` for nested dicts."""
  return traverse_util.unflatten_dict(dict(named), sep='/')


def expected_shapes(config: network.T5Config) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of the network, by name; computes nothing."""
  # Types and dropout change no shape, and gin may give a list.
  activations = tuple(config.mlp_activations)
  return dict(
    _expected_shapes(
      config.replace(
        mlp_activations=activations, dtype='float32', dropout_rate=0.0
      )
    )
  )


@functools.lru_cache(maxsize=8)
def _expected_shapes(config: network.T5Config) -> dict[str, tuple[int, ...]]:
  token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  module = network.Transformer(config)
  variables = jax.eval_shape(
    functools.partial(module.init, enable_dropout=False),
    jax.random.key(0),
    *(token, token, token),
  )
  return {
    name: leaf.shape for name, leaf in flatten(variables['params']).items()
  }


def of_network(named: Mapping[str, Any]) -> dict[str, Any]:
  """What belongs to the network itself: all but the exit classifiers.

  These are as many as were trained, and each measure checks its own.
  """
  return {name: x for name, x in named.items() if not _of_classifier(name)}


def check_exit_classifiers(named: Iterable[str], where: str) -> None:
  """Refuses a file of exit classifiers that holds anything else.

  Its arrays go next to those of the network, which they must not replace.

  Raises:
    DataError: names the first array that belongs to no exit classifier.
  """
  for name in named:
    if not _of_classifier(name):
      raise errors.DataError(
        f'{where} must hold exit classifiers alone (names that begin with'
        f' {classifiers.PARAMS}/), but has {name}; copy the folder again.'
      )


def _of_classifier(name: str) -> bool:
  return name.startswith(classifiers.PARAMS + '/')


def check_same(
  found: Mapping[str, Any], expected: Mapping[str, Any], where: str
) -> None:
  """Refuses a file that does not hold exactly what is needed.

  Args:
    found: shape (or another property) of each array in the file, by name.
    expected: the same of each array that is needed.
    where: the file's name, for the message.

  Raises:
    DataError: lists every missing, extra and different array, each missing one
      with the nearest name in the file.
  """
  missing = [name for name in expected if name not in found]
  extra = [name for name in found if name not in expected]
  different = [
    name for name in expected if name in found and found[name] != expected[name]
  ]
  if not missing and not extra and not different:
    return
  lines = [
    f'missing: {name}{_nearest(name, extra or found)}' for name in missing
  ]
  lines += [f'not expected: {name} {found[name]}' for name in extra]
  lines += [
    f'{name} is {found[name]}, must be {expected[name]}' for name in different
  ]
  raise errors.DataError(
    f'{where} does not hold the arrays that the model configuration asks for'
    f' ({len(missing)} missing, {len(extra)} not expected, {len(different)}'
    ' different); correct the configuration or choose another file.\n  '
    + '\n  '.join(lines)
  )


def _nearest(name: str, candidates: Iterable[str]) -> str:
  matches = difflib.get_close_matches(name, list(candidates), n=1)
  return f' (nearest in the file: {matches[0]})' if matches else ''


def _key_name(key: Any) -> str:
  # Dict, sequence and attribute keys of JAX keep their name in these fields.
  for field in ('key', 'idx', 'name'):
    if hasattr(key, field):
      return str(getattr(key, field))
  return str(key)
