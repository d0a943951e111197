"""The network that arrays are of, told from their names and shapes.

A T5X checkpoint holds no configuration. All sizes show in its arrays; that a
gate of two factors is T5 1.1's GELU, and one factor T5 1.0's ReLU, is assumed.
"""

import re
from collections.abc import Mapping
from typing import Any

from calm_jax import errors
from calm_jax.checkpoints import param_trees
from calm_jax.t5 import network

Shapes = Mapping[str, tuple[int, ...]]

_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/')


def config_of(shapes: Shapes, where: str) -> network.T5Config:
  """The configuration whose parameters have these shapes.

  Args:
    shapes: of all parameters, by our names; exit classifiers do not matter.
    where: the file's name, for messages.

  Raises:
    DataError: they are not those of a T5; each that differs is listed.
  """
  shapes = param_trees.of_network(shapes)
  fields = _fields(shapes)
  if fields is None:
    raise errors.DataError(
      f'{where} does not hold a T5 with the layers of T5X: {_told(shapes)}.'
    )
  config = network.T5Config(**fields)
  param_trees.check_same(shapes, param_trees.expected_shapes(config), where)
  return config


def check_network(shapes: Shapes, config: network.T5Config, where: str) -> None:
  """Refuses parameters that are not exactly those of a network.

  Args:
    shapes: of the parameters that were found, by name.
    config: of the network.
    where: the file's name, for messages.

  Raises:
    DataError: lists every missing, extra and different array, and the fields
      of the configuration that the file's arrays have otherwise.
  """
  try:
    param_trees.check_same(shapes, param_trees.expected_shapes(config), where)
  except errors.DataError as error:
    hint = _differences(shapes, config)
    if not hint:
      raise
    summary, _, arrays = str(error).partition('\n')
    raise errors.DataError(f'{summary}\n  {hint}\n{arrays}') from error


def _differences(shapes: Shapes, config: network.T5Config) -> str:
  if any(name.startswith('decoder/decoder/') for name in shapes):
    return (
      'hint: its layers are scanned (T5X: scan_layers=True, scalable_t5), each'
      ' kernel stacked over the layers; give one that was made without'
    )
  fields = _fields(shapes) or {}
  lines = []
  for name, value in fields.items():
    wanted = getattr(config, name)
    wanted = tuple(wanted) if name == 'mlp_activations' else wanted
    if value != wanted:
      lines.append(f'{name} = {value!r} (the configuration has {wanted!r})')
  return (
    'hint: the file is of a network with ' + ', '.join(lines) if lines else ''
  )


def _fields(shapes: Shapes) -> dict[str, Any] | None:
  """Fields of `T5Config`; None where an array that tells them is missing."""
  layer = 'encoder/layers_0'
  try:
    vocab_size, emb_dim = shapes['token_embedder/embedding']
    num_heads, _ = shapes['encoder/relpos_bias/rel_embedding']
    _, joined = shapes[f'{layer}/attention/query/kernel']
    is_gated = f'{layer}/mlp/wi_0/kernel' in shapes
    mlp = f'{layer}/mlp/wi_0/kernel' if is_gated else f'{layer}/mlp/wi/kernel'
    _, mlp_dim = shapes[mlp]
  except (KeyError, ValueError):
    return None
  if min(vocab_size, emb_dim, num_heads, joined, mlp_dim) < 1:
    return None
  if joined % num_heads:
    return None
  layers = {'encoder': 0, 'decoder': 0}
  for name in shapes:
    if match := _LAYER.match(name):
      layers[match[1]] = max(layers[match[1]], int(match[2]) + 1)
  # No T5 has more, and the shapes of that many would take long to compute.
  if max(layers.values()) > 1000:
    return None
  return {
    'vocab_size': vocab_size,
    'emb_dim': emb_dim,
    'num_heads': num_heads,
    'num_encoder_layers': layers['encoder'],
    'num_decoder_layers': layers['decoder'],
    'head_dim': joined // num_heads,
    'mlp_dim': mlp_dim,
    'mlp_activations': ('gelu', 'linear') if is_gated else ('relu',),
    'logits_via_embedding': 'decoder/logits_dense/kernel' not in shapes,
  }


def _told(shapes: Shapes) -> str:
  names = sorted(shapes)
  shown = ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
  return f'its arrays are {shown}' if names else 'it holds no arrays'
