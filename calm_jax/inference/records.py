"""One example and its outputs as a line of strict JSON, with T5X's keys.

    {"inputs": {"inputs_pretokenized": ..., "targets_pretokenized": ...},
     "prediction": ..., "prediction_tokens": [...],
     "aux": {"scores": ..., "exits": [...], "confidences": [...]}}

T5X writes through seqio's encoder, which cuts long arrays down to a summary,
and bare NaN, which is no JSON. Here arrays are whole, and null stands for a
number that is not finite; `aux.not_finite` names the fields that hold such.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from calm_jax import errors
from calm_jax.data import corpus

if TYPE_CHECKING:
  from calm_jax.decode import generation

PREDICT, PREDICT_WITH_AUX, SCORE = 'predict', 'predict_with_aux', 'score'
MODES = (PREDICT, PREDICT_WITH_AUX, SCORE)


def check_mode(mode: str) -> None:
  """Raises ConfigError unless the mode is one of `MODES`."""
  if mode not in MODES:
    raise errors.unknown_name('mode', mode, MODES)


def line(
  example: corpus.Example,
  outputs: 'Sequence[generation.Generation]',
  mode: str,
  *,
  many: bool = False,
) -> bytes:
  """One line, in UTF-8, its end included.

  Args:
    example: its targets are left out where they are ''.
    outputs: the best first.
    mode: one of `MODES`.
    many: whether fields hold lists over all outputs, the best last as T5X's, or
      the values of the best one.
  """

  def each(value_of: 'Callable[[generation.Generation], Any]') -> Any:
    if not many:
      return value_of(outputs[0])
    return [value_of(output) for output in reversed(outputs)]

  inputs = {'inputs_pretokenized': example.inputs}
  if example.targets:
    inputs['targets_pretokenized'] = example.targets
  fields = {'inputs': inputs}
  if mode == SCORE:
    fields['score'] = each(lambda x: x.log_prob)
  else:
    fields['prediction'] = each(lambda x: x.text)
  if mode == PREDICT_WITH_AUX:
    fields['prediction_tokens'] = each(lambda x: list(x.tokens))
    fields['aux'] = _strict(
      {
        'scores': each(lambda x: x.log_prob),
        'exits': each(lambda x: list(x.num_layers_used)),
        'confidences': each(lambda x: list(x.confidences)),
      }
    )
  text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
  return (text + '\n').encode('utf-8')


def _strict(aux: dict[str, Any]) -> dict[str, Any]:
  finite = {name: _finite(value) for name, value in aux.items()}
  not_finite = [name for name in aux if _holds_null(finite[name])]
  return finite | ({'not_finite': not_finite} if not_finite else {})


def _finite(value: Any) -> Any:
  """The value with None for NaN and infinity."""
  if isinstance(value, list):
    return [_finite(item) for item in value]
  return (
    None if isinstance(value, float) and not math.isfinite(value) else value
  )


def _holds_null(value: Any) -> bool:
  if isinstance(value, list):
    return any(map(_holds_null, value))
  return value is None
