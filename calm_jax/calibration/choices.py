"""p-values and procedures by name, as a command line gives them.

The names are those of the classes; their knobs have the defaults. With other
knobs, build the object (in gin: `P_VALUE = @betting.Betting()`).
"""

from collections.abc import Mapping
from typing import Any

from calm_jax import errors
from calm_jax.calibration import (
  betting,
  conformal_risk_control,
  empirical_bernstein,
  loss_ranges,
  multiple_testing,
  p_values,
  rescaling,
)

Procedure = (
  multiple_testing.MultipleTesting | conformal_risk_control.ConformalRiskControl
)

P_VALUES: dict[str, p_values.PValue] = {
  'star_bets': betting.StarBets(),
  'betting': betting.Betting(),
  'binomial': p_values.Binomial(),
  'hoeffding_bentkus': p_values.HoeffdingBentkus(),
  'hoeffding': p_values.Hoeffding(),
  'chernoff_hoeffding': p_values.ChernoffHoeffding(),
  'bentkus': p_values.Bentkus(),
  'empirical_bernstein': empirical_bernstein.EmpiricalBernstein(),
  'rescaled_hoeffding_bentkus': rescaling.Rescaled(p_values.HoeffdingBentkus()),
  'rescaled_empirical_bernstein': rescaling.Rescaled(
    empirical_bernstein.EmpiricalBernstein()
  ),
}

DEFAULT_P_VALUE: p_values.PValue = betting.StarBets()

PROCEDURES: dict[str, Procedure] = {
  'fixed_sequence': multiple_testing.FixedSequence(),
  'multi_start_fixed_sequence': multiple_testing.MultiStartFixedSequence(),
  'bonferroni': multiple_testing.Bonferroni(),
  'holm': multiple_testing.Holm(),
  'conformal_risk_control': conformal_risk_control.ConformalRiskControl(),
}

# What papers call them.
_ALIASES = {
  'star': 'star_bets',
  'calm': 'hoeffding_bentkus',
  'hb': 'hoeffding_bentkus',
  'wsr': 'betting',
  'crc': 'conformal_risk_control',
  'fst': 'fixed_sequence',
}


def get_p_value(choice: str | p_values.PValue) -> p_values.PValue:
  """Returns a p-value by name, or the object itself.

  Raises:
    ConfigError: there is none of that name; the message suggests the nearest.
  """
  if isinstance(choice, p_values.PValue):
    return choice
  return _named('p_value', choice, P_VALUES)


def get_procedure(choice: str | Procedure) -> Procedure:
  """Returns a procedure by name, or the object itself.

  Raises:
    ConfigError: there is none of that name; the message suggests the nearest.
  """
  if isinstance(choice, Procedure):
    return choice
  return _named('procedure', choice, PROCEDURES)


def default_p_value(loss_range: loss_ranges.LossRange) -> p_values.PValue:
  """The exact one where losses are 0 or 1, else the strongest one."""
  if p_values.Binomial.accepts.includes(loss_range):
    return p_values.Binomial()
  return DEFAULT_P_VALUE


def settle_p_value(
  p_value: str | p_values.PValue | None, loss_range: loss_ranges.LossRange
) -> p_values.PValue:
  """Returns the one that is given or named, or the default for such losses.

  Raises:
    ConfigError: as `get_p_value` and `check_holds`.
  """
  if p_value is None:
    return default_p_value(loss_range)
  p_value = get_p_value(p_value)
  check_holds(p_value, loss_range)
  return p_value


def first_level(
  procedure: Procedure, failure_prob: float, num_thresholds: int
) -> float:
  """Returns the level that bets are to aim at, for so many below 1."""
  if isinstance(procedure, conformal_risk_control.ConformalRiskControl):
    return failure_prob  # Its p-values are only told.
  return procedure.first_level(failure_prob, max(1, num_thresholds))


def check_holds(
  p_value: p_values.PValue, loss_range: loss_ranges.LossRange
) -> None:
  """Refuses a p-value that was not proved for such losses.

  Raises:
    ConfigError: it was not; the message names those that were.
  """
  if p_value.accepts.includes(loss_range):
    return
  valid = [
    name
    for name, other in P_VALUES.items()
    if other.accepts.includes(loss_range)
  ]
  hint = (
    ' A metric of 0 and 1 says so by its attribute zero_one = True.'
    if p_value.accepts is loss_ranges.ZERO_OR_ONE
    else ''
  )
  raise errors.ConfigError(
    f'{p_value!r} holds for losses that are {p_value.accepts.description}, but'
    f' these are {loss_range.description}; choose one of {valid}.{hint}'
  )


def _named(what: str, name: Any, known: Mapping[str, Any]) -> Any:
  if isinstance(name, type):
    raise errors.ConfigError(
      f'{what} must be an object with its knobs, got the class {name.__name__};'
      f' write {name.__name__}().'
    )
  if not isinstance(name, str):
    raise errors.ConfigError(
      f'{what} must be one of {sorted(known)} or an object of'
      f' calm_jax.calibration, got {name!r}.'
    )
  name = _ALIASES.get(name, name)
  if name in known:
    return known[name]
  raise errors.unknown_name(what, name, known)
