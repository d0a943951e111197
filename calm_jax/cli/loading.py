"""The model that a stage runs: the shipped one or a user's.

--model --> LoadedModel --> dump, evaluate, generate
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calm_jax import errors
from calm_jax.cli import settings

if TYPE_CHECKING:
  from calm_jax.data import task_examples
  from calm_jax.decode import generation
  from calm_jax.records import model_description

# Of what differs between two models: the first ones say which it is.
_MOST_SHOWN = 3

MODEL = settings.Setting(
  'model',
  None,
  'folder of a model, or with --gin_file a MODEL_DIR or checkpoint, of T5X or'
  ' Hugging Face too; without it, the model that ships with calm_jax',
  macro='CHECKPOINT_PATH',
  reads=('MODEL', 'TASK_FEATURE_LENGTHS', 'VOCABULARY_PATH'),
)
TASK = settings.Setting(
  'task',
  'docstring_restoration',
  'task whose text is read',
  macro='MIXTURE_OR_TASK_NAME',
)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model ready to generate.

  Attributes:
    generator: reads and writes text.
    params_digest: names the weights.
  """

  generator: 'generation.TextGenerator'
  params_digest: str

  def description(self, **decoding) -> 'model_description.ModelDescription':
    """What dumps and calibrations carry; arguments as of `describe`."""
    from calm_jax.decode import description

    return description.describe(self.generator, self.params_digest, **decoding)


def load(chosen) -> LoadedModel:
  """Loads what `--model` names, the shipped model without it.

  Where gin files define MODEL, `--model` names parameters of it, of any kind
  that `checkpoints.load` reads. Otherwise it names a finished model's folder.

  Args:
    chosen: from `settings.settle`, with `MODEL` among the settings.

  Raises:
    ConfigError: a gin file describes a model, but no checkpoint is named.
    DataError: the folder holds no such model, or a damaged one.
  """
  if 'MODEL' in chosen.gin_macros:
    return _load_checkpoint(chosen.model)
  from calm_jax.checkpoints import digests
  from calm_jax.decode import generation

  generator = generation.load(chosen.model)
  return LoadedModel(generator, digests.model_digest(generator.params))


def _load_checkpoint(path: str | None) -> LoadedModel:
  if path is None:
    raise errors.ConfigError(
      'The gin files describe a model, so a checkpoint of it is required, for'
      ' example --model=runs/docstrings.'
    )
  from calm_jax.checkpoints import digests, load
  from calm_jax.config import gin_setup
  from calm_jax.data import arrays, vocabulary
  from calm_jax.decode import generation
  from calm_jax.parallel import partitioning

  model = gin_setup.macro('MODEL')
  lengths = arrays.checked_lengths(
    gin_setup.macro('TASK_FEATURE_LENGTHS', arrays.TASK_FEATURE_LENGTHS)
  )
  found = load.load_model(path, model.config)
  vocabulary_path = gin_setup.macro('VOCABULARY_PATH') or found.vocabulary_path
  generator = generation.TextGenerator(
    model,
    found.params,
    vocabulary.Tokenizer(vocabulary_path)
    if vocabulary_path
    else vocabulary.default_tokenizer(),
    inputs_length=lengths['inputs'],
    max_decode_length=lengths['targets'],
    partitioner=gin_setup.configured(partitioning.PjitPartitioner)(),
  )
  return LoadedModel(generator, digests.model_digest(found.params))


def load_examples(
  task: str, split: str, *, verbose: bool = False
) -> 'task_examples.TaskExamples':
  """`task_examples.load`, without TensorFlow's greetings where it is needed.

  Raises:
    CalmError: as `task_examples.load`.
  """
  from calm_jax.cli import native_logs
  from calm_jax.data import calm_tasks, task_examples

  if task in calm_tasks.TASKS:
    native_logs.import_tensorflow(verbose=verbose)
  return task_examples.load(task, split)


def register_task(gin_macros: Mapping[str, Any]) -> None:
  """Makes the task of the gin files known, if they describe one.

  Raises:
    ConfigError: they describe it badly.
  """
  from calm_jax.config import gin_checks, gin_setup

  name = gin_macros.get(TASK.macro)
  if name is not None and not gin_checks.is_required(name):
    gin_setup.macro(TASK.macro)


def check_same_model(
  there: 'model_description.ModelDescription',
  here: 'model_description.ModelDescription',
  what: str,
  advice: str = (
    'Give the model and the gin files that it was made with, or make it again'
    ' with these.'
  ),
) -> None:
  """Refuses results of another model than the one that was loaded.

  Args:
    there: the model of the results.
    here: the one that was loaded, and how it is to decode.
    what: the results, as a sentence begins.
    advice: what to do about it.

  Raises:
    DataError: they differ.
  """
  from calm_jax.records import differences

  different = differences.differences(there, here)
  if not different:
    return
  shown = [
    f'its {name} is {was}, and here it is {now}'
    for name, (was, now) in different.items()
  ]
  if len(shown) > _MOST_SHOWN:
    shown[_MOST_SHOWN:] = [f'{len(shown) - _MOST_SHOWN} more are others']
  raise errors.DataError(
    f'{what} must be of this model: {"; ".join(shown)}. {advice}'
  )
