"""BLEURT as a metric of one text, for users who install it themselves.

CALM measures the textual consistency of translations with BLEURT (Sellam et al.
2020). It is not on PyPI, needs TensorFlow and a checkpoint:

    pip install git+https://github.com/google-research/bleurt
    export BLEURT_CHECKPOINT=BLEURT-20
    calm calibrate --metric=calm_jax.evaluation.bleurt:score ...

Scores of BLEURT-20 lie mostly in [0, 1]; they are cut to it. A text against
itself scores 1 here, as with every metric of calm_jax, and a little less there:
the full model must lose nothing against itself.
"""

import functools
import os
from collections.abc import Sequence

from calm_jax import errors


def score(prediction: str, reference: str) -> float:
  """BLEURT of the prediction, cut to [0, 1].

  Raises:
    ConfigError: BLEURT is not installed, or BLEURT_CHECKPOINT names no
      checkpoint.
  """
  return _many([prediction], reference)[0]


def _many(predictions: Sequence[str], reference: str) -> list[float]:
  scores = _scorer(os.environ.get('BLEURT_CHECKPOINT')).score(
    references=[reference] * len(predictions), candidates=list(predictions)
  )
  return [
    1.0 if text.strip() == reference.strip() else min(max(float(x), 0.0), 1.0)
    for text, x in zip(predictions, scores, strict=True)
  ]


score.many = _many  # type: ignore[attr-defined]


@functools.cache
def _scorer(checkpoint: str | None):
  if not checkpoint:
    raise errors.ConfigError(
      'BLEURT requires a checkpoint: set BLEURT_CHECKPOINT to its folder, such'
      ' as that of BLEURT-20.'
    )
  try:
    from bleurt import score as bleurt_score
  except ImportError as error:
    raise errors.ConfigError(
      f'BLEURT cannot be imported: {error}. Install it: pip install'
      ' git+https://github.com/google-research/bleurt'
    ) from error
  return bleurt_score.BleurtScorer(checkpoint)
