"""`calm train`: a gin file in, checkpoints and metrics out."""

import contextlib
import pathlib
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.cli import flags
from calm_jax.config import saved_config
from calm_jax.records import folder_lock, json_records

DESCRIPTION = """Train a model.

  calm train --gin_file=gin/experiments/docstrings.gin \\
    --gin.MODEL_DIR='"runs/docstrings"'

The same command resumes from the newest checkpoint. SIGTERM and Ctrl-C save
first (exit code 143). A run is taken up only with the configuration that it
began with, but for what changes no step: TRAIN_STEPS, periods and the like."""


def add_flags(parser: flags.Parser) -> None:
  """Adds T5X's flags of a run on several hosts, and a way to go on."""
  parser.add_argument(
    '--allow_config_changes',
    action='store_true',
    help='take up the run in MODEL_DIR although its config.gin differs',
  )
  group = parser.add_argument_group(
    'several hosts, each with the same command but for --process_index; those'
    ' of a Cloud TPU find each other without flags'
  )
  group.add_argument(
    '--multiprocess_gpu',
    nargs='?',
    const=True,
    default=False,
    type=flags.boolean,
    help='join the processes that the next flags describe, on GPUs or CPUs',
  )
  group.add_argument(
    '--coordinator_address',
    metavar='HOST:PORT',
    help='where process 0 listens',
  )
  group.add_argument('--process_count', type=int, metavar='N')
  group.add_argument('--process_index', type=int, metavar='I', help='from 0')
  group.add_argument(
    '--initialization_timeout',
    type=int,
    metavar='SECONDS',
    help='how long to wait for the others at the start',
  )


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
  from calm_jax.cli import native_logs
  from calm_jax.parallel import multihost

  native_logs.import_tensorflow(verbose=args.v > 0)
  if args.multiprocess_gpu:
    multihost.initialize(
      args.coordinator_address,
      args.process_count,
      args.process_index,
      args.initialization_timeout,
    )
  else:
    multihost.initialize_on_tpu()
  with multihost.leaving_together():
    _train(args)


def _train(args) -> None:
  import gin

  from calm_jax.config import gin_setup
  from calm_jax.parallel import multihost
  from calm_jax.training import loop

  gin_setup.parse(
    args.gin_file,
    args.gin_bindings,
    args.gin_search_paths,
    allow_imports=args.gin_allow_imports,
  )
  train = gin_setup.configured(loop.train)
  model_dir = gin_setup.absolute_path_macro('MODEL_DIR')
  multihost.assert_same(
    {**multihost.versions(), 'configuration': gin.config_str()},
    'Start the same command, with the same gin files, on every host.',
  )
  if not args.allow_config_changes:
    saved_config.check_continues(model_dir, gin.config_str())
  if not multihost.is_writer():
    gin_setup.call(train)
    return
  print(f'calm train: writing to {model_dir}', flush=True)
  with _alone_in(model_dir), _recorded_configuration(model_dir):
    gin_setup.call(train)


@contextlib.contextmanager
def _alone_in(model_dir: pathlib.Path) -> Iterator[None]:
  """Holds the folder: two runs would overwrite each other's checkpoints.

  A folder that a refused run leaves empty is removed.

  Raises:
    ResourceError: another process trains there, or it may not be written.
  """
  with json_records.explained(model_dir / saved_config.FILE_NAME):
    lock = folder_lock.lock(model_dir, 'run')
  try:
    yield
  finally:
    lock.close()
    if [x.name for x in model_dir.iterdir()] == [folder_lock.LOCK]:
      (model_dir / folder_lock.LOCK).unlink()
      with contextlib.suppress(OSError):
        model_dir.rmdir()


@contextlib.contextmanager
def _recorded_configuration(model_dir: pathlib.Path) -> Iterator[None]:
  """Writes config.gin; a run that is refused leaves the folder as it was."""
  import gin

  from calm_jax.records.json_records import write_bytes_atomically

  path = model_dir / saved_config.FILE_NAME
  before = path.read_bytes() if path.exists() else None
  write_bytes_atomically(path, gin.config_str().encode('utf-8'))
  try:
    yield
  except (errors.ConfigError, errors.DataError):
    # Both are raised before the first step only: see `training.loop.train`.
    if before is not None:
      write_bytes_atomically(path, before)
    else:
      path.unlink(missing_ok=True)
    raise
