"""`calm export`: a checkpoint in, a finished model's folder out."""

import dataclasses

from calm_jax import errors
from calm_jax.cli import loading, settings

DESCRIPTION = """Make a small, complete model folder of a checkpoint.

  calm export --gin_file=gin/experiments/docstrings.gin \\
    --gin.MODEL_DIR='"runs/docstrings"' --model=runs/docstrings \\
    --output_dir=runs/docstrings_model

The folder holds the weights as float16, the sizes and the vocabulary; every
stage takes it as --model, and so does calm_jax.load in Python.

  calm export --format=huggingface --output_dir=runs/t5

writes the shipped model, or the one that --model names, in Hugging Face's
layout (float32), for transformers and other engines. These run all layers."""

FORMATS = ('calm', 'huggingface')

SETTINGS = (
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder of the model',
    macro='EXPORT_OUTPUT_DIR',
  ),
  settings.Setting(
    'format',
    FORMATS[0],
    'calm: a folder that every stage reads; huggingface: config.json and'
    ' model.safetensors of a T5 there',
    macro='EXPORT_FORMAT',
  ),
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'about', '', 'how it was trained, in words, kept in the folder'
  ),
  settings.Setting(
    'classifiers',
    None,
    'names of the exit classifiers that are kept, joined by commas; all without'
    ' it',
    macro='EXPORTED_CLASSIFIERS',
  ),
)


def run(args) -> None:
  """Writes the folder.

  Raises:
    ConfigError: no gin file describes the model, no checkpoint is named, or
      the format is unknown.
    DataError: the checkpoint is missing, damaged or of another model.
  """
  chosen = settings.settle(args, SETTINGS)
  if chosen.format not in FORMATS:
    raise errors.unknown_name('format', chosen.format, FORMATS)
  if chosen.format == 'huggingface':
    _write_huggingface(chosen)
  else:
    _write_folder(chosen)
  print(f'Written: {chosen.output_dir}')


def _write_huggingface(chosen) -> None:
  from calm_jax.checkpoints import to_huggingface

  generator = loading.load(chosen).generator
  to_huggingface.save(
    chosen.output_dir,
    with_classifiers(generator.params, chosen.classifiers),
    generator.model.config,
    generator.tokenizer.path,
  )


def _write_folder(chosen) -> None:
  if 'MODEL' not in chosen.gin_macros:
    raise errors.ConfigError(
      'calm export requires the gin file that describes the model, for example'
      ' --gin_file=gin/experiments/docstrings.gin.'
    )
  from calm_jax.checkpoints import bundle

  generator = loading.load(chosen).generator
  info = bundle.BundleInfo(
    task=chosen.task,
    feature_lengths={
      'inputs': generator.inputs_length,
      'targets': generator.max_decode_length,
    },
    training={'about': chosen.about} if chosen.about else {},
    output_length=dataclasses.asdict(generator.model.output_length)
    if generator.model.output_length
    else {},
  )
  bundle.save_bundle(
    chosen.output_dir,
    with_classifiers(generator.params, chosen.classifiers),
    generator.model.config,
    info,
    generator.tokenizer.path,
  )


def with_classifiers(params, names: str | None):
  """The parameters with only the named exit classifiers.

  Raises:
    ConfigError: one is not there.
  """
  if names is None:
    return params
  from calm_jax.early_exit.measures import classifiers

  trained = params.get(classifiers.PARAMS, {})
  wanted = [name.strip() for name in names.split(',') if name.strip()]
  for name in wanted:
    if name not in trained:
      raise errors.ConfigError(
        f'classifiers must be among {sorted(trained) or "none"}, those of the'
        f' checkpoint, got {name!r}.'
      )
  return {**params, classifiers.PARAMS: {x: trained[x] for x in wanted}}
