"""Import of Hugging Face T5 directories: config.json and safetensors.

Torch stores a linear map as [out, in], so kernels are transposed; names follow
the table below. T5 1.0 and 1.1, Flan-T5, LM-adapted T5 and mT5 are read, with
tied embeddings or without, in one file or in shards; what differs from them is
refused by the name of the field. Exit classifiers that `to_huggingface` wrote
are read too. Neither torch nor transformers is needed.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from calm_jax import errors
from calm_jax.checkpoints import (
  param_trees,
  safetensors_files,
  sha256sums,
  sizes_of_arrays,
  to_huggingface,
)
from calm_jax.records import json_records
from calm_jax.t5 import network

_ATTENTION = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
# The sublayers of a block, by stack and by their number in torch's list.
_ENCODER_SUBLAYERS = ('attention', 'mlp')
_DECODER_SUBLAYERS = ('self_attention', 'encoder_decoder_attention', 'mlp')
_NORMS = {
  'attention': 'pre_attention_layer_norm',
  'self_attention': 'pre_self_attention_layer_norm',
  'encoder_decoder_attention': 'pre_cross_attention_layer_norm',
  'mlp': 'pre_mlp_layer_norm',
}
_BLOCK = re.compile(r'(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(.+)')
_SHARED = {
  'shared.weight': 'token_embedder/embedding',
  'encoder.final_layer_norm.weight': 'encoder/encoder_norm/scale',
  'decoder.final_layer_norm.weight': 'decoder/decoder_norm/scale',
  'lm_head.weight': 'decoder/logits_dense/kernel',
}
# Copies of the shared embedding that some files hold under these names.
_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# In old files of T5 1.0, and used by nothing: transformers ignores it too.
_UNUSED = (
  'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
)
# Type of model -> its feed-forward block where config.json does not say.
_FEED_FORWARD_DEFAULTS = {'t5': 'relu', 'mt5': 'gated-gelu'}
_ACTIVATIONS = {'relu': ('relu',), 'gated-gelu': ('gelu', 'linear')}
# What a T5 must say, and what it means when it says nothing.
_REQUIRED = {
  'layer_norm_epsilon': (1e-6, 1e-6),
  'relative_attention_num_buckets': (32, 32),
  'relative_attention_max_distance': (128, 128),
  'pad_token_id': (0, 0),
  'eos_token_id': (1, 1),
  'decoder_start_token_id': (0, 0),
}


@dataclasses.dataclass(frozen=True)
class ImportedModel:
  """A model read from a Hugging Face directory.

  Attributes:
    config: sizes of the network.
    params: nested dict of float32 NumPy arrays.
    vocabulary_path: the SentencePiece file in the directory, if there is one.
  """

  config: network.T5Config
  params: dict[str, Any]
  vocabulary_path: pathlib.Path | None = None


def load(directory: str | os.PathLike) -> ImportedModel:
  """Reads configuration and parameters.

  Raises:
    DataError: a file is missing or damaged, the architecture is not T5 1.0 or
      1.1, or the parameters are not those of the configuration.
  """
  directory = pathlib.Path(directory).expanduser().absolute()
  fields = _read_fields(directory)
  config = _config(fields, directory / to_huggingface.CONFIG_FILE)
  tensors = safetensors_files.read_directory(directory)
  _check_fields(tensors, fields, config, directory / to_huggingface.CONFIG_FILE)
  if _is_tied_unscaled(fields) and 'shared.weight' in tensors:
    tensors.setdefault('lm_head.weight', tensors['shared.weight'])
  params = _convert(tensors, config, directory)
  sizes_of_arrays.check_network(
    {name: array.shape for name, array in params.items()},
    config,
    str(directory),
  )
  params |= _read_classifiers(directory / to_huggingface.CLASSIFIERS_FILE)
  vocabulary = directory / to_huggingface.VOCABULARY_FILE
  if vocabulary.is_file():
    sha256sums.check(directory, [vocabulary.name])
  return ImportedModel(
    config,
    param_trees.unflatten(params),
    vocabulary if vocabulary.is_file() else None,
  )


def _read_classifiers(path: pathlib.Path) -> dict[str, np.ndarray]:
  if not path.is_file():
    return {}
  tensors = safetensors_files.read_file(path)
  param_trees.check_exit_classifiers(tensors, str(path))
  return {name: array.astype(np.float32) for name, array in tensors.items()}


def _read_fields(directory: pathlib.Path) -> dict[str, Any]:
  path = directory / to_huggingface.CONFIG_FILE
  fields = json_records.read_json(path)
  if not isinstance(fields, dict):
    raise errors.DataError(f'{path} must hold a JSON object, got {fields!r}.')
  return fields


def _config(fields: Mapping[str, Any], path: pathlib.Path) -> network.T5Config:
  model_type = fields.get('model_type')
  _require_among(path, 'model_type', model_type, _FEED_FORWARD_DEFAULTS)
  for name, (required, default) in _REQUIRED.items():
    _require_among(path, name, fields.get(name, default), (required,))
  feed_forward = fields.get(
    'feed_forward_proj', _FEED_FORWARD_DEFAULTS[model_type]
  )
  _require_among(path, 'feed_forward_proj', feed_forward, _ACTIVATIONS)
  num_layers = _size(fields, 'num_layers', path)
  return network.T5Config(
    vocab_size=_size(fields, 'vocab_size', path),
    emb_dim=_size(fields, 'd_model', path),
    num_heads=_size(fields, 'num_heads', path),
    num_encoder_layers=num_layers,
    num_decoder_layers=_size(fields, 'num_decoder_layers', path, num_layers),
    head_dim=_size(fields, 'd_kv', path),
    mlp_dim=_size(fields, 'd_ff', path),
    mlp_activations=_ACTIVATIONS[feed_forward],
    dropout_rate=_dropout_rate(fields, path),
    logits_via_embedding=_is_scaled(fields, path),
  )


def _check_fields(
  tensors: Mapping[str, np.ndarray],
  fields: Mapping[str, Any],
  config: network.T5Config,
  path: pathlib.Path,
) -> None:
  """Names the field where config.json and the tensors tell different things."""
  has_gate = any(name.endswith('.wi_0.weight') for name in tensors)
  if has_gate != (len(config.mlp_activations) > 1):
    needed = 'gated-gelu' if has_gate else 'relu'
    raise errors.DataError(
      f'{path}: feed_forward_proj must be {needed!r} for the tensors beside it'
      f' ({"wi_0 and wi_1" if has_gate else "one wi"} in each block), got'
      f' {fields.get("feed_forward_proj")!r}; the files belong to different'
      ' models.'
    )
  needs_head = not (config.logits_via_embedding or _is_tied_unscaled(fields))
  if needs_head and 'lm_head.weight' not in tensors:
    raise errors.DataError(
      f'{path}: tie_word_embeddings is false, so the tensors must have a'
      ' lm_head.weight, but there is none; the files belong to different'
      ' models, or hold an encoder-decoder without its head (T5Model).'
    )


def _size(fields, name: str, path: pathlib.Path, default=None) -> int:
  size = fields.get(name)
  size = default if size is None else size
  if size is None:
    raise errors.DataError(f'{path} lacks the field {name!r}.')
  if type(size) is not int or not 1 <= size < 2**31:
    raise errors.DataError(
      f'{path}: {name} must be a positive integer, got {size!r}.'
    )
  # Shapes are computed layer by layer, and no T5 has so many.
  if name in ('num_layers', 'num_decoder_layers') and size > 1000:
    raise errors.DataError(f'{path}: {name} is at most 1000, got {size}.')
  return size


def _dropout_rate(fields, path: pathlib.Path) -> float:
  rate = fields.get('dropout_rate', 0.1)
  if type(rate) not in (int, float) or not 0 <= rate < 1:
    raise errors.DataError(
      f'{path}: dropout_rate must be in [0, 1), got {rate!r}.'
    )
  return float(rate)


def _is_scaled(fields, path: pathlib.Path) -> bool:
  """Whether logits are scaled and come from the token embedding.

  T5 1.0 ties its embeddings and scales, 1.1 does neither, and both say so in
  tie_word_embeddings, which is true if absent. Since version 5 transformers
  writes true there for all: a T5 then has scale_decoder_outputs, and an mT5 is
  never scaled.
  """
  name = 'tie_word_embeddings'
  if 'scale_decoder_outputs' in fields:
    name = 'scale_decoder_outputs'
  is_mt5 = fields['model_type'] == 'mt5'
  is_scaled = fields.get(name, not is_mt5)
  _require_among(path, name, is_scaled, (True, False))
  return is_scaled and not (is_mt5 and _is_of_version_5(fields))


def _is_tied_unscaled(fields) -> bool:
  """A file of transformers 5 that stores equal embeddings once."""
  if fields.get('tie_word_embeddings', True) is not True:
    return False
  if fields['model_type'] == 'mt5':
    return _is_of_version_5(fields)
  return fields.get('scale_decoder_outputs') is False


def _is_of_version_5(fields) -> bool:
  major = str(fields.get('transformers_version', '')).partition('.')[0]
  return major.isdecimal() and int(major) >= 5


def _require_among(path: pathlib.Path, name: str, value, allowed) -> None:
  # 1 == True in Python, but not in JSON.
  if any(type(value) is type(x) and value == x for x in allowed):
    return
  raise errors.DataError(
    f'{path} is not of a T5 1.0 or 1.1 model: {name} must be'
    f' {" or ".join(map(repr, allowed))}, got {value!r}.'
  )


def _convert(
  tensors: Mapping[str, np.ndarray],
  config: network.T5Config,
  directory: pathlib.Path,
) -> dict[str, np.ndarray]:
  tensors = dict(tensors)
  tensors.pop(_UNUSED, None)
  redundant = list(_COPIES)
  if config.logits_via_embedding:
    redundant.append('lm_head.weight')
  for name in redundant:
    _drop_copy(tensors, name, directory)
  params = {}
  for torch_name, tensor in tensors.items():
    # A name that is not in the table stays, to be listed as not expected.
    name = _our_name(torch_name) or torch_name
    is_kernel = name.endswith(('kernel', 'rel_embedding'))
    array = tensor.T if is_kernel else tensor
    params[name] = np.ascontiguousarray(array, dtype=np.float32)
  return params


def _drop_copy(
  tensors: dict[str, np.ndarray], name: str, directory: pathlib.Path
) -> None:
  copy = tensors.pop(name, None)
  original = tensors.get('shared.weight')
  if copy is None:
    return
  if original is None:
    tensors['shared.weight'] = copy
  elif not np.array_equal(copy, original):
    raise errors.DataError(
      f'{directory}: {name} must equal shared.weight in a T5 model with tied'
      ' embeddings (tie_word_embeddings in config.json), but differs.'
    )


def _our_name(torch_name: str) -> str | None:
  if torch_name in _SHARED:
    return _SHARED[torch_name]
  match = _BLOCK.fullmatch(torch_name)
  if not match:
    return None
  stack, block, number, rest = match.groups()
  if rest == 'SelfAttention.relative_attention_bias.weight':
    # Held by the first block, used by all.
    return f'{stack}/relpos_bias/rel_embedding' if block == '0' else None
  sublayers = _ENCODER_SUBLAYERS if stack == 'encoder' else _DECODER_SUBLAYERS
  if int(number) >= len(sublayers):
    return None
  sublayer = sublayers[int(number)]
  prefix = f'{stack}/layers_{block}'
  if rest == 'layer_norm.weight':
    return f'{prefix}/{_NORMS[sublayer]}/scale'
  kernel = _kernel_name(sublayer, rest)
  return kernel and f'{prefix}/{sublayer}/{kernel}/kernel'


def _kernel_name(sublayer: str, rest: str) -> str | None:
  if sublayer == 'mlp':
    match = re.fullmatch(r'Dense\w*\.(wi|wi_0|wi_1|wo)\.weight', rest)
    return match and match[1]
  module = 'EncDec' if sublayer == 'encoder_decoder_attention' else 'Self'
  match = re.fullmatch(module + r'Attention\.([qkvo])\.weight', rest)
  return match and _ATTENTION[match[1]]
