"""`calm train`: a gin file in, checkpoints and metrics out."""

from calm_jax import errors
from calm_jax.cli import flags

DESCRIPTION = """Train a model.

  calm train --gin_file=gin/experiments/docstrings.gin \\
    --gin.MODEL_DIR='"runs/docstrings"'

The same command resumes from the newest checkpoint. SIGTERM and Ctrl-C save
first (exit code 143)."""


def add_flags(parser: flags.Parser) -> None:
  """Adds what the other stages do not have: nothing."""


def run(args) -> None:
  """Trains as the gin files say.

  Raises:
    ConfigError: no gin file, or one that does not describe a whole run.
    CalmError: as `training.loop.train`.
  """
  if not args.gin_file:
    raise errors.ConfigError(
      'calm train requires a gin file, for example'
      ' --gin_file=gin/experiments/docstrings.gin.'
    )
  import gin

  from calm_jax.cli import gin_setup, native_logs
  from calm_jax.json_records import write_bytes_atomically

  native_logs.import_tensorflow(verbose=args.v > 0)
  gin_setup.parse(args.gin_file, args.gin_bindings, args.gin_search_paths)
  from calm_jax.training import loop

  train = gin_setup.configured(loop.train)
  model_dir = gin_setup.absolute_path_macro('MODEL_DIR')
  write_bytes_atomically(
    model_dir / 'config.gin', gin.config_str().encode('utf-8')
  )
  print(f'calm train: writing to {model_dir}', flush=True)
  gin_setup.call(train)
