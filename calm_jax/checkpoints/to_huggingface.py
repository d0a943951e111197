"""Export to Hugging Face T5 directories: the inverse of `from_huggingface`.

    config.json                    sizes and architecture
    model.safetensors              float32, kernels transposed to [out, in]
    exit_classifiers.safetensors   trained exit classifiers, if there are any
    spiece.model                   the vocabulary, if there is one
    SHA256SUMS                     for `sha256sum -c`; compared on import

Any engine that reads T5 there runs the full model with the same weights. Exit
classifiers mean nothing to others; `from_huggingface` reads them back. Neither
torch nor transformers is needed.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import param_trees, sha256sums
from calm_jax.records import json_records
from calm_jax.t5 import network

CONFIG_FILE = 'config.json'
PARAMS_FILE = 'model.safetensors'
CLASSIFIERS_FILE = 'exit_classifiers.safetensors'
VOCABULARY_FILE = 'spiece.model'  # as T5's tokenizer there calls it

# Activations of the feed-forward block -> fields of config.json.
_FEED_FORWARD = {
  ('relu',): {
    'feed_forward_proj': 'relu',
    'dense_act_fn': 'relu',
    'is_gated_act': False,
  },
  ('gelu', 'linear'): {
    'feed_forward_proj': 'gated-gelu',
    'dense_act_fn': 'gelu_new',
    'is_gated_act': True,
  },
}
_TOP = {
  'token_embedder/embedding': 'shared.weight',
  'decoder/logits_dense/kernel': 'lm_head.weight',
  'encoder/encoder_norm/scale': 'encoder.final_layer_norm.weight',
  'decoder/decoder_norm/scale': 'decoder.final_layer_norm.weight',
}
# Sublayers by the place that torch's list gives them, with their modules.
_SUBLAYERS = {
  'encoder': {'attention': (0, 'SelfAttention'), 'mlp': (1, 'DenseReluDense')},
  'decoder': {
    'self_attention': (0, 'SelfAttention'),
    'encoder_decoder_attention': (1, 'EncDecAttention'),
    'mlp': (2, 'DenseReluDense'),
  },
}
_NORMS = {
  'pre_attention_layer_norm': 'attention',
  'pre_self_attention_layer_norm': 'self_attention',
  'pre_cross_attention_layer_norm': 'encoder_decoder_attention',
  'pre_mlp_layer_norm': 'mlp',
}
_KERNELS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}


def save(
  directory: str | os.PathLike,
  params: Any,
  config: network.T5Config,
  vocabulary_path: str | os.PathLike | None = None,
) -> None:
  """Writes a directory that Hugging Face's T5 loads.

  Args:
    directory: created if it does not exist; a model in it is replaced.
    params: parameters of the network and of its exit classifiers.
    config: sizes of the network.
    vocabulary_path: a SentencePiece file, copied; may be the one in place.

  Raises:
    ConfigError: the feed-forward block is neither T5 1.0's nor 1.1's.
    DataError: the parameters are not those of the configuration, or there is
      no such vocabulary.
    ResourceError: the directory cannot be written to.
  """
  directory = pathlib.Path(directory).expanduser()
  fields = config_fields(config)
  named = {
    name: np.asarray(leaf, np.float32)
    for name, leaf in param_trees.flatten(jax.device_get(params)).items()
  }
  network_params = param_trees.of_network(named)
  tensors = to_tensors(network_params, config)
  classifiers = {x: named[x] for x in named if x not in network_params}
  if vocabulary_path is not None:
    json_records.write_bytes_atomically(
      directory / VOCABULARY_FILE, _read(pathlib.Path(vocabulary_path))
    )
  _write_tensors(directory / PARAMS_FILE, tensors)
  if classifiers:
    _write_tensors(directory / CLASSIFIERS_FILE, classifiers)
  # What a model that was here before had, and this one has not, goes.
  if vocabulary_path is None:
    (directory / VOCABULARY_FILE).unlink(missing_ok=True)
  if not classifiers:
    (directory / CLASSIFIERS_FILE).unlink(missing_ok=True)
  sha256sums.write(
    directory,
    [
      name
      for name in (PARAMS_FILE, CLASSIFIERS_FILE, VOCABULARY_FILE)
      if (directory / name).is_file()
    ],
  )
  # Last: a directory without it is none.
  json_records.write_json_atomically(directory / CONFIG_FILE, fields)


def config_fields(config: network.T5Config) -> dict[str, Any]:
  """What config.json says of a network.

  Raises:
    ConfigError: the feed-forward block is neither T5 1.0's nor 1.1's.
  """
  activations = tuple(config.mlp_activations)
  if activations not in _FEED_FORWARD:
    raise errors.ConfigError(
      'The Hugging Face layout has T5 models with mlp_activations'
      f' {" or ".join(map(str, _FEED_FORWARD))}, got {activations}.'
    )
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'classifier_dropout': 0.0,
    'd_ff': config.mlp_dim,
    'd_kv': config.head_dim,
    'd_model': config.emb_dim,
    'decoder_start_token_id': 0,
    'dropout_rate': config.dropout_rate,
    'eos_token_id': 1,
    'initializer_factor': 1.0,
    'is_encoder_decoder': True,
    'layer_norm_epsilon': 1e-06,
    'model_type': 't5',
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'pad_token_id': 0,
    'relative_attention_max_distance': config.relative_attention_max_distance,
    'relative_attention_num_buckets': config.relative_attention_num_buckets,
    'tie_word_embeddings': config.logits_via_embedding,
    'torch_dtype': 'float32',
    'use_cache': True,
    'vocab_size': config.vocab_size,
  } | _FEED_FORWARD[activations]


def to_tensors(
  named: Mapping[str, np.ndarray], config: network.T5Config
) -> dict[str, np.ndarray]:
  """Parameters by our names -> tensors by torch's names.

  Raises:
    DataError: they are not those of the configuration.
  """
  param_trees.check_same(
    {name: array.shape for name, array in named.items()},
    param_trees.expected_shapes(config),
    'The tree to be saved',
  )
  tensors = {}
  for name, array in named.items():
    is_kernel = name.endswith(('kernel', 'rel_embedding'))
    tensors[_torch_name(name)] = np.ascontiguousarray(
      array.T if is_kernel else array
    )
  return tensors


def _torch_name(name: str) -> str:
  """'decoder/layers_3/mlp/wo/kernel' -> 'decoder.block.3.layer.2...'."""
  if name in _TOP:
    return _TOP[name]
  stack, block, sublayer, *rest = name.split('/')
  if block == 'relpos_bias':  # held by the first block, used by all
    return (
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    )
  prefix = f'{stack}.block.{block.removeprefix("layers_")}.layer'
  if sublayer in _NORMS:
    place, _ = _SUBLAYERS[stack][_NORMS[sublayer]]
    return f'{prefix}.{place}.layer_norm.weight'
  place, module = _SUBLAYERS[stack][sublayer]
  return f'{prefix}.{place}.{module}.{_KERNELS.get(rest[0], rest[0])}.weight'


def _write_tensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  # Its readers ask for the format; all of them can read torch's.
  content = safetensors.numpy.save(tensors, metadata={'format': 'pt'})
  json_records.write_bytes_atomically(path, content)


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'{path} cannot be read: {error.strerror or error}.'
    ) from error
