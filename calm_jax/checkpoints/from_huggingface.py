"""Import of Hugging Face T5 directories: config.json and model.safetensors.

Torch stores a linear map as [out, in], so kernels are transposed; names follow
the table below. T5 1.0 and 1.1 are read, with tied embeddings or without; what
differs from them is refused by the name of the field. Exit classifiers that
`to_huggingface` wrote are read too. Neither torch nor transformers is needed.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from calm_jax import errors, json_records
from calm_jax.checkpoints import param_trees, to_huggingface
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
# What a T5 must say, and what it means when it says nothing.
_REQUIRED = {
  'model_type': ('t5', None),
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
  """

  config: network.T5Config
  params: dict[str, Any]


def load(directory: str | os.PathLike) -> ImportedModel:
  """Reads configuration and parameters.

  Raises:
    DataError: a file is missing or damaged, the architecture is not T5 1.0 or
      1.1, or the parameters are not those of the configuration.
  """
  directory = pathlib.Path(directory).expanduser().absolute()
  config = load_config(directory)
  tensors = _read_tensors(directory)
  params = _convert(tensors, config, directory)
  param_trees.check_same(
    {name: array.shape for name, array in params.items()},
    param_trees.expected_shapes(config),
    str(directory / 'model.safetensors'),
  )
  classifiers = directory / to_huggingface.CLASSIFIERS_FILE
  if classifiers.is_file():
    params |= _read_safetensors(classifiers)
  return ImportedModel(config, param_trees.unflatten(params))


def load_config(directory: str | os.PathLike) -> network.T5Config:
  """Reads config.json.

  Raises:
    DataError: it is missing, or describes another network than T5 1.0 (ReLU)
      or 1.1 (gated GELU); names the field.
  """
  path = pathlib.Path(directory) / 'config.json'
  fields = json_records.read_json(path)
  for name, (required, default) in _REQUIRED.items():
    _require(path, name, fields.get(name, default), required)
  is_gated = fields.get('feed_forward_proj', 'relu') != 'relu'
  if is_gated:
    _require(
      path, 'feed_forward_proj', fields['feed_forward_proj'], 'gated-gelu'
    )
  try:
    return network.T5Config(
      vocab_size=fields['vocab_size'],
      emb_dim=fields['d_model'],
      num_heads=fields['num_heads'],
      num_encoder_layers=fields['num_layers'],
      num_decoder_layers=fields.get('num_decoder_layers')
      or fields['num_layers'],
      head_dim=fields['d_kv'],
      mlp_dim=fields['d_ff'],
      mlp_activations=('gelu', 'linear') if is_gated else ('relu',),
      dropout_rate=fields.get('dropout_rate', 0.1),
      # T5 1.0 ties its embeddings and 1.1 does not; either may differ.
      logits_via_embedding=fields.get('tie_word_embeddings', True),
    )
  except KeyError as error:
    raise errors.DataError(f'{path} lacks the field {error}.') from error


def _require(path: pathlib.Path, name: str, value: Any, required: Any) -> None:
  if value != required:
    raise errors.DataError(
      f'{path} is not of a T5 1.0 or 1.1 model: {name} must be {required!r},'
      f' got {value!r}.'
    )


def _read_tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
  path = directory / 'model.safetensors'
  if not path.is_file():
    names = sorted(child.name for child in directory.iterdir())
    raise errors.DataError(
      f'{directory} has no model.safetensors (it holds {", ".join(names)});'
      ' pickled weights (.bin) are never read, convert them with'
      ' save_pretrained(..., safe_serialization=True).'
    )
  return _read_safetensors(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise errors.DataError(
      f'{path} is damaged or truncated ({path.stat().st_size} bytes: {error}).'
    ) from error


def _convert(
  tensors: Mapping[str, np.ndarray],
  config: network.T5Config,
  directory: pathlib.Path,
) -> dict[str, np.ndarray]:
  tensors = dict(tensors)
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
      ' embeddings, but differs.'
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
