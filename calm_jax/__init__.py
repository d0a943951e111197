"""calm_jax: confident adaptive language modeling in JAX."""

import importlib

__version__ = '0.1.0'


def load(path=None, **model_kwargs):
  """A model that reads and writes text; `generation.load`, imported late.

  `load('docstrings')` is the model that ships, as is `load()`; a path is the
  folder of a model of yours.

  Importing `calm_jax` alone brings in neither JAX nor TensorFlow, so that
  calibration and reports stay light.
  """
  return importlib.import_module('calm_jax.decode.generation').load(
    path, **model_kwargs
  )
