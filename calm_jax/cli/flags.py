"""Command-line flags, with T5X's names and forms.

    argv --normalize--> argparse --> namespace that a stage reads

Accepted: `--flag=value`, `--flag value`, dashes for underscores, and T5X's
`--gin.NAME=VALUE`, which becomes `--gin_bindings='NAME = VALUE'`.
"""

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence

from calm_jax import errors

_GIN_PREFIX = '--gin.'


class Parser(argparse.ArgumentParser):
  """Raises ConfigError where argparse would print its usage and exit."""

  def error(self, message: str):
    raise errors.ConfigError(f'{message}. See: {self.prog} --help')

  def parse_args(self, args: Sequence[str], namespace=None):  # type: ignore
    """Parses; an unknown flag is an error that gives the nearest one."""
    parsed, unknown = self.parse_known_args(normalize(args), namespace)
    if unknown:
      raise errors.ConfigError(self._unknown_message(unknown[0]))
    return parsed

  def _unknown_message(self, argument: str) -> str:
    see = f'See: {self.prog} --help'
    if not argument.startswith('-'):
      return f'{self.prog} takes no argument {argument!r} without a flag. {see}'
    name = argument.partition('=')[0]
    known = list(self._option_string_actions)
    hint = did_you_mean(name, known)
    return f'Unknown flag {name}.{hint} {see}'


def did_you_mean(name: str, known: Sequence[str]) -> str:
  """' Did you mean X?' with the nearest known name, or ''."""
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
  return f' Did you mean {near[0]}?' if near else ''


def normalize(args: Sequence[str]) -> list[str]:
  """Rewrites `--gin.X=Y` as T5X does, and dashes in flag names.

  Raises:
    ConfigError: `--gin.X` without a value.
  """
  normalized = []
  for position, argument in enumerate(args):
    if argument == '--':
      return normalized + list(args[position:])
    if argument.startswith(_GIN_PREFIX):
      normalized.append(f'--gin_bindings={_as_binding(argument)}')
    elif argument.startswith('--'):
      name, equals, value = argument.partition('=')
      normalized.append('--' + name[2:].replace('-', '_') + equals + value)
    else:
      normalized.append(argument)
  return normalized


def _as_binding(argument: str) -> str:
  name, equals, value = argument.removeprefix(_GIN_PREFIX).partition('=')
  if not equals or not name.strip() or not value.strip():
    raise errors.ConfigError(
      f"Gin bindings must be of the form '--gin.<param>=<value>', got"
      f' {argument!r}.'
    )
  return f'{name.strip()} = {value.strip()}'


def boolean(text: str) -> bool:
  """absl's words for a boolean flag's value."""
  words = {'true': True, '1': True, 'false': False, '0': False}
  if text.lower() not in words:
    raise argparse.ArgumentTypeError(f'true or false is required, got {text!r}')
  return words[text.lower()]


def command_line() -> str:
  """What was typed, for results to tell how they are made again."""
  return shlex.join(['calm', *sys.argv[1:]])


def add_overwrite_and_restart(parser: Parser) -> None:
  """Flags of the stages whose work is taken up after an interruption."""
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='make a complete result again, and replace it then',
  )
  parser.add_argument(
    '--restart',
    action='store_true',
    help='start over where unfinished work could be taken up',
  )


def make_parser(command: str, description: str) -> Parser:
  """A parser with the flags that every stage takes."""
  parser = Parser(
    prog=f'calm {command}',
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  _add_gin_flags(parser.add_argument_group('configuration, as in T5X'))
  parser.add_argument(
    '--v',
    type=int,
    default=0,
    metavar='1',
    help='1: log more, and show tracebacks of errors',
  )
  # T5X's commands carry them; logs go to stderr anyway.
  for name in ('--alsologtostderr', '--logtostderr'):
    parser.add_argument(name, action='store_true', help=argparse.SUPPRESS)
  return parser


def _add_gin_flags(group) -> None:
  group.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='gin file; may be repeated, later files override earlier ones',
  )
  group.add_argument(
    '--gin_bindings',
    action='append',
    default=[],
    metavar='"NAME = VALUE"',
    help='one binding, applied after all files; shorter: --gin.NAME=VALUE,'
    ' with strings quoted twice: --gin.MODEL_DIR=\'"runs/a"\'',
  )
  group.add_argument(
    '--gin_search_paths',
    default='.',
    metavar='DIR,DIR',
    help='where gin files are searched before the ones that ship with calm_jax',
  )
  group.add_argument(
    '--gin_allow_imports',
    metavar='MODULE,MODULE',
    help='for gin files that others wrote: refuse those that import, or reach,'
    ' any module but these (and what is below them) and those that the shipped'
    ' files import; without it a gin file may call any Python code',
  )
