"""Settings of a stage: a flag, a gin macro or a default, in this order.

`--tolerance=0.1` and `--gin.TOLERANCE=0.1` mean the same. Without gin files
nothing but gin itself is imported, so the NumPy stages stay light.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from calm_jax import errors
from calm_jax.cli import flags

REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Setting:
  """One setting.

  Attributes:
    name: of the flag, and the key in what `settle` returns.
    default: `REQUIRED` if there is none.
    help: one line.
    kind: float, int or str; the default's, or str, if None is given.
    macro: gin macro that sets it where the flag is absent; the name in capital
      letters if '' is given.
    minimum: the least number allowed, if there is one.
    objects: whether the macro may be anything else, as @p_values.Bentkus(), of
      which the stage says what it takes.
    reads: other macros that the stage reads along with this one.
    repeats: whether the flag may be given several times; the value is a list.
  """

  name: str
  default: Any
  help: str
  kind: type = None  # type: ignore[assignment]
  macro: str = ''
  minimum: int | None = None
  objects: bool = False
  reads: tuple[str, ...] = ()
  repeats: bool = False

  def __post_init__(self):
    is_number = isinstance(self.default, int | float)
    kind = self.kind or (type(self.default) if is_number else str)
    object.__setattr__(self, 'kind', kind)
    object.__setattr__(self, 'macro', self.macro or self.name.upper())

  def check_minimum(self, value: Any) -> None:
    """Raises ConfigError where a value is less than the minimum."""
    if self.minimum is None or value is None or value is REQUIRED:
      return
    if not value >= self.minimum:
      raise errors.ConfigError(
        f'{self.name} must be at least {self.minimum}, got {value}.'
      )

  def check(self, value: Any) -> Any:
    """The macro's value as `kind`.

    Raises:
      ConfigError: it is of another type.
    """
    if value is None and self.default is None:
      return None
    if not isinstance(value, int | float | str):
      from calm_jax.config import gin_setup

      value = gin_setup.macro(self.macro)  # A reference, or holds some.
      if self.objects:
        return value
    if self.kind is float and type(value) is int:
      return float(value)
    if type(value) is not self.kind:
      raise errors.ConfigError(
        f'{self.macro} must be of type {self.kind.__name__}, got {value!r}.'
      )
    return value


# What evaluate and report both read.
CALIBRATION = Setting(
  'calibration',
  REQUIRED,
  'JSON file of calm calibrate',
  macro='CALIBRATION_FILE',
)


def add_flags(parser: flags.Parser, settings: Sequence[Setting]) -> None:
  """Adds a flag per setting."""
  for setting in settings:
    text = setting.help
    if setting.default is REQUIRED:
      text += ' (required)'
    elif setting.default is not None:
      text += f' (default {setting.default})'
    parser.add_argument(
      f'--{setting.name}',
      action='append' if setting.repeats else 'store',
      type=setting.kind,
      metavar=setting.kind.__name__.upper(),
      help=text.replace('%', '%%'),
    )


def settle(
  args: argparse.Namespace, settings: Sequence[Setting]
) -> argparse.Namespace:
  """Values of all settings, by name; `gin_macros` holds all of gin's macros.

  Raises:
    ConfigError: required settings are missing (all are named), a value is
      too small, a macro has another type, or gin's files and bindings are
      wrong.
  """
  macros = _macros(args, settings)
  values = argparse.Namespace(gin_macros=macros)
  missing = []
  for setting in settings:
    value = getattr(args, setting.name)
    if value is None and _is_given(setting.macro, macros):
      value = setting.check(macros[setting.macro])
      value = [value] if setting.repeats else value
    elif value is None:
      value = setting.default
    setting.check_minimum(value)
    if value is REQUIRED:
      missing.append(setting)
    setattr(values, setting.name, value)
  if missing:
    names = ', '.join(f'--{x.name}' for x in missing)
    explained = '; '.join(f'--{x.name}: {x.help}' for x in missing)
    raise errors.ConfigError(f'Missing {names}. {explained}.')
  return values


def _is_given(macro: str, macros: dict[str, Any]) -> bool:
  if macro not in macros:
    return False
  from calm_jax.config import gin_checks

  return not gin_checks.is_required(macros[macro])


def _macros(
  args: argparse.Namespace, settings: Sequence[Setting]
) -> dict[str, Any]:
  if not (args.gin_file or args.gin_bindings):
    return {}
  from calm_jax.config import gin_checks, gin_setup

  gin_setup.parse(
    args.gin_file,
    args.gin_bindings,
    args.gin_search_paths,
    stage_macros={y for x in settings for y in (x.macro, *x.reads)},
    allow_imports=args.gin_allow_imports,
  )
  return gin_checks.macro_values()
