"""The console script `calm`: picks a stage and turns errors into exit codes.

Nothing heavy is imported here: a stage's module is loaded once its name is
known, and JAX or TensorFlow only by the stages that need them.
"""

import importlib
import importlib.metadata
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from calm_jax import errors
from calm_jax.cli import flags, settings
from calm_jax.display import visible_text

# Stage -> what it does. The module `calm_jax.cli.<stage>` has DESCRIPTION,
# add_flags(parser) and run(args).
STAGES = {
  'demo': 'the whole line below on the shipped model, ending in a report',
  'train': 'train a model: gin file in, checkpoints out',
  'export': 'a checkpoint as a small, complete model folder',
  'convert': 'a T5X checkpoint or Hugging Face folder as a model folder',
  'dump': 'decode a split at a grid of thresholds',
  'calibrate': 'choose a threshold whose quality is guaranteed',
  'infer': 'predict for a split or a file: JSONL with exits and confidences',
  'evaluate': 'quality, layers and speed of that threshold on test data',
  'report': 'one HTML page and figures',
  'study': 'confidence measures side by side: quality, layers, time',
  'validate': 'calibrated against naive thresholds on many random splits',
  'doctor': 'what is installed, what is wrong, and how to fix it',
  'generate': 'text in, text out, each token coloured by the layers it used',
}
_INTERRUPTED = 130
_FORMAT_WARNING = warnings.formatwarning
_MOST_LINES = 12
_USAGE = """calm: confident adaptive language modeling in JAX

usage: calm STAGE [flags]
       calm STAGE --help
       calm --version

{stages}

Exit codes: 2 configuration, 3 data, 4 resources, 5 numeric, 143 saved after a
signal.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one stage; returns the exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    code = _dispatch(argv)
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    _discard_output()
    return 1


def _dispatch(argv: list[str]) -> int:
  if not argv or argv[0] in ('-h', '--help', '--helpfull', 'help'):
    print(usage(), end='')
    return 0 if argv else errors.ConfigError.exit_code
  if argv[0] == '--version':
    print(f'calm_jax {importlib.metadata.version("calm_jax")}')
    return 0
  stage = argv[0]
  if stage not in STAGES:
    hint = flags.did_you_mean(stage, list(STAGES))
    print(
      f'calm: error: unknown stage {stage!r}.{hint}'
      f' Stages: {", ".join(STAGES)}.',
      file=sys.stderr,
    )
    return errors.ConfigError.exit_code
  return _run_stage(stage, argv[1:])


def usage() -> str:
  """The text of `calm --help`."""
  width = max(map(len, STAGES))
  lines = (f'  {name:{width}}  {text}' for name, text in STAGES.items())
  return _USAGE.format(stages='\n'.join(lines))


def make_parser(stage: str) -> flags.Parser:
  """The parser of a stage: its settings, and what flags it has besides."""
  module = importlib.import_module(f'calm_jax.cli.{stage}')
  parser = flags.make_parser(stage, module.DESCRIPTION)
  settings.add_flags(parser, getattr(module, 'SETTINGS', ()))
  if hasattr(module, 'add_flags'):
    module.add_flags(parser)
  return parser


def _run_stage(stage: str, args: list[str]) -> int:
  verbose = False
  try:
    module = importlib.import_module(f'calm_jax.cli.{stage}')
    parsed = make_parser(stage).parse_args(args)
    verbose = parsed.v > 0
    _set_up_logging(verbose)
    return module.run(parsed) or 0
  except SystemExit as exit_request:  # --help, or saved after a signal
    return exit_request.code or 0
  except KeyboardInterrupt:
    print(f'calm {stage}: interrupted.', file=sys.stderr)
    return _INTERRUPTED
  except errors.CalmError as error:
    return _failed(stage, error, verbose)
  except BrokenPipeError:
    raise
  except OSError as error:
    return _failed(stage, errors.ResourceError(str(error)), verbose)
  except (
    ImportError,
    AttributeError,
    TypeError,
    RuntimeError,
    AssertionError,
    MemoryError,
  ) as error:
    if (explained := _environment_error(error)) is None:
      raise
    return _failed(stage, explained, verbose)


def _failed(stage: str, error: errors.CalmError, verbose: bool) -> int:
  if verbose:
    traceback.print_exc()
  print(f'calm {stage}: error: {message_of(error)}', file=sys.stderr)
  return error.exit_code


def _environment_error(error: Exception) -> errors.ResourceError | None:
  """What the machine, or a version of JAX or Flax, has to do with an error."""
  from calm_jax.cli import machine_errors
  from calm_jax.doctor import versions

  if isinstance(error, RuntimeError | AssertionError | MemoryError):
    return machine_errors.explained(error)
  unsupported = versions.unsupported()
  return errors.ResourceError(unsupported) if unsupported else None


def _set_up_logging(verbose: bool) -> None:
  import logging

  # Read by TensorFlow and XLA when they are first imported.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '0' if verbose else '2')
  os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
  logging.basicConfig(
    level=logging.INFO if verbose else logging.WARNING,
    format='%(levelname)s %(name)s: %(message)s',
    stream=sys.stderr,
  )
  if not verbose:
    warnings.formatwarning = _format_warning


def _format_warning(message, category, *place) -> str:
  # Our own are for the user, who need not know the line that warned.
  if category is UserWarning:
    return f'Warning: {visible_text.visible(str(message))}\n'
  return _FORMAT_WARNING(message, category, *place)


def message_of(error: Exception) -> str:
  """An error's message without what gin appends, and not too long a list.

  It may quote files that others wrote, and a terminal obeys what is in them.
  """
  text = str(error).partition('\n  In call to configurable')[0]
  lines = [visible_text.visible(line) for line in text.split('\n')]
  if len(lines) > _MOST_LINES:
    left_out = len(lines) - _MOST_LINES + 1
    lines[_MOST_LINES - 1 :] = [f'  and {left_out} more; --v=1 shows all']
  return '\n'.join(lines)


def _discard_output() -> None:
  # Python flushes stdout once more at its end; there is no reader for it.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
  sys.exit(main())
