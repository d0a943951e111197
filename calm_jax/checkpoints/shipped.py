"""Models that ship with calm_jax, by name.

calm_jax.load('docstrings'), --model=docstrings --> a bundle's folder
"""

import os
import pathlib

from calm_jax import errors
from calm_jax.checkpoints import bundle


def names() -> list[str]:
  """What ships: the folders of calm_jax/pretrained."""
  folder = bundle.default_bundle_path().parent
  return sorted(path.name for path in folder.iterdir() if path.is_dir())


def resolve(model: str | os.PathLike | None) -> str | os.PathLike | None:
  """The folder of a model that is given as a path or by a shipped name.

  Args:
    model: a folder of that name goes before a shipped model; None stays None.

  Raises:
    DataError: a bare name, neither a folder's nor a shipped model's.
  """
  if model is None or pathlib.Path(model).expanduser().exists():
    return model
  if model in names():
    return bundle.default_bundle_path().parent / model
  if os.fspath(model) == pathlib.Path(model).name:
    raise errors.DataError(
      f'There is no model folder {os.fspath(model)!r} here, and the models that'
      f' ship with calm_jax are: {", ".join(names())}. Give one of these, or'
      ' the path of a folder that calm export wrote.'
    )
  return model
