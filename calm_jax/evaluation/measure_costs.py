"""Which cost belongs to which confidence measure.

ModelDescription.measure -> ConfidenceCost -> flops
"""

from collections.abc import Callable

from calm_jax.evaluation import confidence_cost as costs
from calm_jax.records import descriptions


def cost_of(choice: descriptions.Description) -> costs.ConfidenceCost | None:
  """Returns the cost of a measure, or of an exit classifier by itself.

  Returns:
    None for one of the user's own.
  """
  make = _COSTS.get(choice.kind)
  return make and make(**choice.knobs)


# By the kind, functions of its knobs.
_COSTS: dict[str, Callable[..., costs.ConfidenceCost | None]] = {
  'SoftmaxTopTwoGap': costs.WholeSoftmax,
  'SoftmaxMaximum': costs.WholeSoftmax,
  'SoftmaxEntropy': costs.WholeSoftmax,
  'Patience': costs.WholeSoftmax,
  'HiddenStateSaturation': lambda rescale: costs.Saturation(),
  'TopKPropagation': lambda renormalize, **scored: costs.TopK(**scored),
  'ScreenedTopK': lambda renormalize, **scored: costs.ScreenedTopK(**scored),
  # No measurement; the oracle's is for free, as in CALM's bound.
  'StaticExit': costs.ChosenOnly,
  'Oracle': costs.ChosenOnly,
  'ClassifierConfidence': lambda classifier: cost_of(classifier),
  'Linear': lambda **knobs: costs.Classifier(),
  'Mlp': lambda hidden_dim, **others: costs.Classifier((hidden_dim,)),
  'Attention': lambda width, head_hidden_dims, residual, **others: (
    costs.AttentionClassifier(width, head_hidden_dims, residual)
  ),
}
