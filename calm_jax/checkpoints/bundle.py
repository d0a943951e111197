"""A finished model in one small directory: what a repository can carry.

    params.safetensors     float16 or float32, names joined by '/'
    exit_classifiers.safetensors   the same of trained exit classifiers, if any
    config.json            sizes, sha256 of the other files, task, training
    sentencepiece.model    the vocabulary

`calm_jax/pretrained/docstrings` is one of them. config.json is written last
and holds the digests of the others, so half a bundle is never taken for one.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from calm_jax import errors
from calm_jax.checkpoints import param_trees, safetensors_files
from calm_jax.records import json_records
from calm_jax.t5 import network

CONFIG_FILE = 'config.json'
PARAMS_FILE = 'params.safetensors'
CLASSIFIERS_FILE = 'exit_classifiers.safetensors'
VOCABULARY_FILE = 'sentencepiece.model'


@dataclasses.dataclass(frozen=True)
class BundleInfo:
  """What besides the weights belongs to a model.

  Attributes:
    task: name of the task that it was trained for.
    feature_lengths: tokens of 'inputs' and 'targets'.
    training: how it was trained and what it reached, in words for people.
    output_length: 'ratio' and 'extra' of `lengths.ProportionalLength`; {} for
      no other bound than the targets' feature length.
  """

  task: str
  feature_lengths: dict[str, int]
  training: dict[str, str] = dataclasses.field(default_factory=dict)
  output_length: dict[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    lengths = self.feature_lengths
    if sorted(lengths) != ['inputs', 'targets'] or min(lengths.values()) < 1:
      raise errors.DataError(
        'feature_lengths must give the tokens of inputs and targets, got'
        f' {lengths}.'
      )
    if sorted(self.output_length) not in ([], ['extra', 'ratio']):
      raise errors.DataError(
        'output_length must give a ratio and an extra, or nothing, got'
        f' {self.output_length}.'
      )


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A model read from its directory.

  Attributes:
    params: nested dict of float32 NumPy arrays.
    config: sizes of the network.
    info: task, lengths and history.
    vocabulary_path: the SentencePiece file.
  """

  params: dict[str, Any]
  config: network.T5Config
  info: BundleInfo
  vocabulary_path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class _Network(json_records.Record):
  """`T5Config` in JSON's types."""

  vocab_size: int
  dtype: str
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  mlp_activations: tuple[str, ...]
  dropout_rate: float
  logits_via_embedding: bool
  float32_attention_logits: bool
  # Later fields: folders written before them have T5's values.
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128


@dataclasses.dataclass(frozen=True)
class _ConfigFile(json_records.Record):
  schema_version: int
  network: _Network
  params_sha256: str
  vocabulary_sha256: str
  task: str
  feature_lengths: dict[str, int]
  training: dict[str, str]
  output_length: dict[str, float] = dataclasses.field(default_factory=dict)
  classifiers_sha256: str = ''  # '' where there are none


def default_bundle_path() -> pathlib.Path:
  """The model that ships with calm_jax."""
  return pathlib.Path(__file__).parents[1] / 'pretrained' / 'docstrings'


def save_bundle(
  directory: str | os.PathLike,
  params: Any,
  config: network.T5Config,
  info: BundleInfo,
  vocabulary_path: str | os.PathLike,
  dtype: str = 'float16',
) -> None:
  """Writes a model's directory.

  Args:
    directory: created if it does not exist; a bundle in it is replaced.
    params: parameters of the network and of its exit classifiers.
    config: sizes of the network.
    info: task, lengths and history.
    vocabulary_path: a SentencePiece file, copied; may be the one in place.
    dtype: of the file; float16 keeps 11 significant bits, float32 all.

  Raises:
    DataError: the parameters are not those of the configuration, or there is
      no such vocabulary.
    NumericError: a parameter is not finite, or too large for the type.
    ResourceError: the directory cannot be written to.
  """
  directory = pathlib.Path(directory).expanduser()
  vocabulary = _read_bytes(pathlib.Path(vocabulary_path))
  named = {
    name: _rounded(name, jax.device_get(leaf), dtype)
    for name, leaf in param_trees.flatten(params).items()
  }
  _check_shapes(named, config, 'The tree to be saved')
  network_params = param_trees.of_network(named)
  content = safetensors.numpy.save(network_params)
  classifiers = b''
  if len(network_params) < len(named):
    classifiers = safetensors.numpy.save(
      {x: named[x] for x in named if x not in network_params}
    )
  config_file = _ConfigFile(
    schema_version=json_records.SCHEMA_VERSION,
    network=_config_to_json(config),
    params_sha256=_sha256(content),
    vocabulary_sha256=_sha256(vocabulary),
    task=info.task,
    feature_lengths=dict(info.feature_lengths),
    training={key: str(value) for key, value in info.training.items()},
    output_length=dict(info.output_length),
    classifiers_sha256=_sha256(classifiers) if classifiers else '',
  )
  json_records.write_bytes_atomically(directory / PARAMS_FILE, content)
  if classifiers:
    json_records.write_bytes_atomically(
      directory / CLASSIFIERS_FILE, classifiers
    )
  else:
    # Those of a model that was here before belong to that one.
    (directory / CLASSIFIERS_FILE).unlink(missing_ok=True)
  json_records.write_bytes_atomically(directory / VOCABULARY_FILE, vocabulary)
  json_records.write_json_atomically(directory / CONFIG_FILE, config_file)


def load_bundle(directory: str | os.PathLike | None = None) -> Bundle:
  """Reads a model's directory, the shipped one if None.

  Raises:
    DataError: it is no bundle, or one of its files is missing, damaged or not
      the one that config.json speaks of.
  """
  directory = pathlib.Path(directory or default_bundle_path()).expanduser()
  if not is_bundle(directory):
    raise errors.DataError(
      f'{directory} is not a model folder: it needs {CONFIG_FILE},'
      f' {PARAMS_FILE} and {VOCABULARY_FILE}. A T5X checkpoint or a Hugging'
      f' Face folder becomes one by calm convert --model={directory}; one of'
      ' calm train needs its --gin_file.'
    )
  where = directory / CONFIG_FILE
  config_file = json_records.read_json(where, _ConfigFile)
  config = _config_from_json(config_file.network, where)
  _read_bytes(directory / VOCABULARY_FILE, config_file.vocabulary_sha256)
  named = _read_arrays(directory / PARAMS_FILE, config_file.params_sha256)
  _check_shapes(named, config, str(directory / PARAMS_FILE))
  if config_file.classifiers_sha256:
    path = directory / CLASSIFIERS_FILE
    trained = _read_arrays(path, config_file.classifiers_sha256)
    param_trees.check_exit_classifiers(trained, str(path))
    named |= trained
  return Bundle(
    params=param_trees.unflatten(
      {name: array.astype(np.float32) for name, array in named.items()}
    ),
    config=config,
    info=BundleInfo(
      config_file.task,
      config_file.feature_lengths,
      config_file.training,
      config_file.output_length,
    ),
    vocabulary_path=directory / VOCABULARY_FILE,
  )


def _read_arrays(path: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
  return safetensors_files.parse(_read_bytes(path, sha256), path)


def is_bundle(directory: pathlib.Path) -> bool:
  """Whether a directory looks like one that `save_bundle` finished."""
  return all(
    (directory / name).is_file()
    for name in (CONFIG_FILE, PARAMS_FILE, VOCABULARY_FILE)
  )


def _rounded(name: str, leaf: Any, dtype: str) -> np.ndarray:
  with np.errstate(over='ignore'):  # reported below
    array = np.asarray(leaf).astype(dtype, copy=False)
  if not np.isfinite(array).all():
    raise errors.NumericError(
      f'The parameter {name} must be finite and below'
      f' {np.finfo(dtype).max:.5g} to be saved as {dtype}, but reaches'
      f' {np.max(np.abs(np.asarray(leaf, np.float32)))}.'
    )
  return array


def _check_shapes(named, config: network.T5Config, where: str) -> None:
  param_trees.check_same(
    {
      name: array.shape for name, array in param_trees.of_network(named).items()
    },
    param_trees.expected_shapes(config),
    where,
  )


def _config_to_json(config: network.T5Config) -> _Network:
  fields = dataclasses.asdict(config)
  fields['dtype'] = jnp.dtype(config.dtype).name
  fields['mlp_activations'] = tuple(config.mlp_activations)
  return _Network(**fields)


def _config_from_json(
  fields: _Network, where: pathlib.Path
) -> network.T5Config:
  # JAX's own objects, so that equal configurations print the same.
  dtypes = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
  if fields.dtype not in dtypes:
    raise errors.DataError(
      f'{where}: dtype must be one of {list(dtypes)}, got {fields.dtype!r}.'
    )
  return network.T5Config(**fields.to_json() | {'dtype': dtypes[fields.dtype]})


def _read_bytes(path: pathlib.Path, sha256: str | None = None) -> bytes:
  try:
    content = path.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'{path} cannot be read: {error.strerror or error}.'
    ) from error
  if sha256 is not None and _sha256(content) != sha256:
    raise errors.DataError(
      f'{path} is damaged or belongs to another model: its sha256 is not the'
      f' one in {CONFIG_FILE}; copy the folder again.'
    )
  return content


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
