"""Which cost belongs to which confidence measure, by the manifest's text.

Manifest.measure, as 'TopKPropagation(k=64)' -> ConfidenceCost -> flops

A dump names its measure by its repr, because the measure itself needs JAX. The
text is parsed, never executed.
"""

import ast
import dataclasses
from collections.abc import Callable
from typing import Any

from calm_jax.evaluation import confidence_cost

_Knobs = dict[str, Any]


def cost_of(measure: str) -> confidence_cost.ConfidenceCost | None:
  """Returns the measure's cost; None if it is no measure known here.

  Args:
    measure: repr of an object of `calm_jax.early_exit`.
  """
  name, knobs = parse(measure)
  make = _COSTS.get(name)
  if make is None:
    return None
  try:
    return make(knobs)
  except (KeyError, TypeError, ValueError):
    return None  # Knobs of another version.


def parse(text: str) -> tuple[str, _Knobs]:
  """'Name(a=1, b=(2, 3))' -> ('Name', {'a': 1, 'b': (2, 3)}).

  Objects among the knobs come as such a pair again. What is no such text comes
  back as a name without knobs.
  """
  try:
    node = ast.parse(text.strip(), mode='eval').body
    if isinstance(node, ast.Call):
      return _parsed_call(node)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    pass
  return text, {}


def classifier_of(measure: str) -> tuple[str, _Knobs] | None:
  """Kind and sizes of a measure's exit classifier; None if it has none."""
  name, knobs = parse(measure)
  kind = knobs.get('classifier')
  match name, kind:
    case 'ClassifierConfidence', (str(), dict()):
      return kind
  return None


def _parsed_call(node: ast.Call) -> tuple[str, _Knobs]:
  if not isinstance(node.func, ast.Name) or node.args:
    raise ValueError('not the repr of a dataclass')
  knobs = {}
  for keyword in node.keywords:
    if keyword.arg is None:
      raise ValueError('** is no part of a repr')
    value = keyword.value
    knobs[keyword.arg] = (
      _parsed_call(value)
      if isinstance(value, ast.Call)
      else ast.literal_eval(value)
    )
  return node.func.id, knobs


def _top_k(knobs: _Knobs) -> confidence_cost.TopK:
  k = knobs['k']
  if not all(type(x) is int for x in (k if isinstance(k, tuple) else (k,))):
    raise TypeError('k is no number of tokens')
  return confidence_cost.TopK(
    k=knobs['k'],
    taken_at=knobs['taken_at'],
    last_layer_from_k=knobs['last_layer_from_k'],
  )


def _screened(knobs: _Knobs) -> confidence_cost.ConfidenceCost:
  sizes = knobs['rank'], knobs['num_candidates']
  if not all(type(x) is int for x in sizes):
    raise TypeError('no sizes of a preview')
  exact = dataclasses.asdict(_top_k(knobs))
  return confidence_cost.ScreenedTopK(
    **exact, rank=knobs['rank'], num_candidates=knobs['num_candidates']
  )


def _classifier(knobs: _Knobs) -> confidence_cost.ConfidenceCost:
  kind, sizes = knobs['classifier']
  if kind == 'Attention':
    return confidence_cost.AttentionClassifier(
      width=sizes['width'],
      hidden_dims=sizes['head_hidden_dims'],
      residual=sizes['residual'],
    )
  if kind == 'Mlp':
    return confidence_cost.Classifier((sizes['hidden_dim'],))
  if kind == 'Linear':
    return confidence_cost.Classifier()
  raise KeyError(kind)  # A kind of the user's own.


def _always(
  cost: confidence_cost.ConfidenceCost,
) -> Callable[[_Knobs], confidence_cost.ConfidenceCost]:
  return lambda knobs: cost


_COSTS: dict[str, Callable[[_Knobs], confidence_cost.ConfidenceCost]] = {
  'SoftmaxTopTwoGap': _always(confidence_cost.WholeSoftmax()),
  'SoftmaxMaximum': _always(confidence_cost.WholeSoftmax()),
  'SoftmaxEntropy': _always(confidence_cost.WholeSoftmax()),
  'Patience': _always(confidence_cost.WholeSoftmax()),
  'HiddenStateSaturation': _always(confidence_cost.Saturation()),
  'TopKPropagation': _top_k,
  'ScreenedTopK': _screened,
  'ClassifierConfidence': _classifier,
  # No measurement; the oracle's is for free, as in CALM's bound.
  'StaticExit': _always(confidence_cost.ChosenOnly()),
  'Oracle': _always(confidence_cost.ChosenOnly()),
}
