"""T5X's mode `score`: how probable the full model finds given targets."""

import warnings
from collections.abc import Sequence

import jax
import numpy as np

from calm_jax import errors
from calm_jax.data import arrays, corpus
from calm_jax.decode import generation


class Scorer:
  """Examples -> their targets' log-probabilities, as `runner.Decode`."""

  def __init__(self, generator: generation.TextGenerator, targets_length: int):
    """Compiles nothing yet.

    Args:
      generator: the model.
      targets_length: in tokens, EOS included; longer targets are cut.
    """
    self._generator = generator
    self._length = targets_length
    self._score = jax.jit(generator.model.score_batch)
    self._has_warned = False

  def __call__(
    self, examples: Sequence[corpus.Example]
  ) -> list[list[generation.Generation]]:
    """One output each, without text: its `log_prob` is the score.

    The score is the sum over the target's tokens, EOS included, in nats.

    Raises:
      NumericError: the model computes NaN or infinity.
    """
    generator = self._generator
    targets, num_cut = arrays.encode_rows(
      [example.targets for example in examples],
      generator.tokenizer,
      self._length,
    )
    if num_cut and not self._has_warned:
      self._has_warned = True
      warnings.warn(
        f'Some targets are longer than {self._length} tokens; the rest of them'
        ' is not scored.',
        stacklevel=2,
      )
    batch = arrays.to_batch(
      list(generator.encode([example.inputs for example in examples])),
      targets,
      inputs_length=generator.inputs_length,
      targets_length=self._length,
    )
    scores = np.asarray(self._score(generator.params, batch))
    if not np.isfinite(scores).all():
      raise errors.NumericError(
        'The model computes scores that are not finite; its parameters are'
        ' damaged or its training diverged.'
      )
    return [[_scored(float(score))] for score in scores]


def _scored(score: float) -> generation.Generation:
  return generation.Generation(
    text='',
    pieces=(),
    tokens=(),
    num_layers_used=(),
    confidences=(),
    log_prob=score,
  )
