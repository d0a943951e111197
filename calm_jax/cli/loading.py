"""The model that a stage runs: the shipped one or a user's.

--model --> LoadedModel --> dump, evaluate, generate
"""

import dataclasses
from typing import TYPE_CHECKING

from calm_jax.cli import settings

if TYPE_CHECKING:
  from calm_jax import generation

MODEL = settings.Setting(
  'model',
  'CHECKPOINT_PATH',
  str,
  None,
  'folder of a model; without it, the one that ships with calm_jax',
)
TASK = settings.Setting(
  'task',
  'MIXTURE_OR_TASK_NAME',
  str,
  'docstring_restoration',
  'task whose text is read',
)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model ready to generate.

  Attributes:
    generator: reads and writes text.
    digest: names the weights; dumps and calibrations carry it.
  """

  generator: 'generation.TextGenerator'
  digest: str


def load(model: str | None) -> LoadedModel:
  """Loads a model folder, the shipped one if None.

  Raises:
    DataError: the folder holds no model, or a damaged one.
  """
  from calm_jax.checkpoints import bundle

  generator, digest = bundle.load(model)
  return LoadedModel(generator, digest)
