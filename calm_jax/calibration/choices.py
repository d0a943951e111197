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
  'hoeffding': p_values.Hoeffding(),
  'chernoff_hoeffding': p_values.ChernoffHoeffding(),
  'bentkus': p_values.Bentkus(),
  'hoeffding_bentkus': p_values.HoeffdingBentkus(),
  'binomial': p_values.Binomial(),
  'betting': betting.Betting(),
  'empirical_bernstein': empirical_bernstein.EmpiricalBernstein(),
  'rescaled_hoeffding_bentkus': rescaling.Rescaled(p_values.HoeffdingBentkus()),
  'rescaled_empirical_bernstein': rescaling.Rescaled(
    empirical_bernstein.EmpiricalBernstein()
  ),
}

PROCEDURES: dict[str, Procedure] = {
  'fixed_sequence': multiple_testing.FixedSequence(),
  'multi_start_fixed_sequence': multiple_testing.MultiStartFixedSequence(),
  'bonferroni': multiple_testing.Bonferroni(),
  'holm': multiple_testing.Holm(),
  'conformal_risk_control': conformal_risk_control.ConformalRiskControl(),
}

# What papers call them.
_ALIASES = {
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
  """CALM's choice where it holds, else the one that needs the least."""
  if p_values.DEFAULT.accepts.includes(loss_range):
    return p_values.DEFAULT
  return betting.Betting()


def settle_p_value(
  p_value: p_values.PValue | None, loss_range: loss_ranges.LossRange
) -> p_values.PValue:
  """Returns the one that is given, or the default for such losses.

  Raises:
    ConfigError: as `check_holds`.
  """
  p_value = p_value or default_p_value(loss_range)
  check_holds(p_value, loss_range)
  return p_value


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
  name = _ALIASES.get(name, name)
  if name in known:
    return known[name]
  raise errors.unknown_name(what, name, known)
