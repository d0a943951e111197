"""One door for all kinds of models on disk, told apart by their files."""

import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp

from calm_jax import errors
from calm_jax.checkpoints import (
  bundle,
  finding,
  from_huggingface,
  from_t5x,
  orbax_io,
  param_trees,
  remote,
  shipped,
  sizes_of_arrays,
)
from calm_jax.t5 import network


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """Parameters and the network that they are for.

  Attributes:
    params: nested dict of float32 NumPy arrays.
    config: sizes of the network.
    info: task and lengths, where the files tell.
    vocabulary_path: the SentencePiece file, where there is one.
  """

  params: dict[str, Any]
  config: network.T5Config
  info: bundle.BundleInfo | None = None
  vocabulary_path: pathlib.Path | None = None


def load_model(
  path: str | os.PathLike | None = None, config: network.T5Config | None = None
) -> LoadedModel:
  """Reads a model of any kind.

  Args:
    path: a bundle, or the name of one that ships; a Hugging Face directory; a
      MODEL_DIR or `checkpoint_N` written by `calm train` or by T5X; local, or
      gs://. None is the shipped model.
    config: the network, needed for the last two, whose files do not tell; with
      the first two it must be what they say.

  Returns:
    The model; its parameters are exactly those of its configuration.

  Raises:
    ConfigError: the files hold no configuration and none is given, or they
      hold another one.
    DataError: there is no model, or it is damaged.
  """
  directory = remote.local(
    shipped.resolve(path) or bundle.default_bundle_path()
  )
  loaded = _load_with_own_config(directory)
  if loaded is None:
    return _load_checkpoint(directory, config)
  if config is not None and _plain(config) != _plain(loaded.config):
    raise errors.ConfigError(
      f'{directory} is a model of another configuration: it has'
      f' {loaded.config}, asked for was {config}.'
    )
  return loaded


def tells_config(directory: pathlib.Path) -> bool:
  """Whether a model's files hold the configuration of its network."""
  return (directory / 'config.json').is_file()


def _plain(config: network.T5Config) -> network.T5Config:
  # Gin files spell types as text and sequences as they like, and dropout is
  # no property of weights.
  return config.replace(
    dropout_rate=0.0,
    dtype=jnp.dtype(config.dtype),
    mlp_activations=tuple(config.mlp_activations),
  )


def _load_with_own_config(directory: pathlib.Path) -> LoadedModel | None:
  if not tells_config(directory):
    return None
  # No other kind has this file: one that lacks the vocabulary is told so.
  if (directory / bundle.PARAMS_FILE).is_file():
    found = bundle.load_bundle(directory)
    return LoadedModel(
      found.params, found.config, found.info, found.vocabulary_path
    )
  imported = from_huggingface.load(directory)
  return LoadedModel(
    imported.params,
    imported.config,
    vocabulary_path=imported.vocabulary_path,
  )


def _load_checkpoint(
  directory: pathlib.Path, config: network.T5Config | None
) -> LoadedModel:
  checkpoint = finding.find_checkpoint(directory)
  if config is None:
    raise errors.ConfigError(
      f'{checkpoint} holds parameters only; name the gin file of its model'
      ' too, for example --gin_file=gin/models/t5_1_1_docstrings.gin.'
    )
  if from_t5x.is_t5x(checkpoint):
    return LoadedModel(from_t5x.load_params(checkpoint, config), config)
  params = orbax_io.restore_params(checkpoint)
  named = param_trees.of_network(param_trees.flatten(params))
  sizes_of_arrays.check_network(
    {name: leaf.shape for name, leaf in named.items()}, config, str(checkpoint)
  )
  return LoadedModel(params, config)
