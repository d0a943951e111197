"""The arrays of a dump: `contracts.Dump`, checked for shape, type and range.

`dump.runner` makes them above the waist of the data flow, `dump.partial` and
`dump.reader` carry them across; everything below works on them. NumPy only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from calm_jax import errors

EOS_ID = 1  # T5's
# Field -> (axes, kind). Axes: N examples, G thresholds, T positions, L layers.
ARRAYS = {
  'example_ids': ('N', np.str_),
  'sources': ('N', np.str_),
  'references': ('N', np.str_),
  'predictions': ('NG', np.str_),
  'tokens': ('NGT', np.int32),
  'num_layers_used': ('NGT', np.int8),
  'confidences': ('NGT', np.float32),
  'trace_confidences': ('NTL', np.float32),
  'trace_tokens': ('NTL', np.int32),
}
# What a dump may lack, in the same notation.
OPTIONAL_ARRAYS = {'num_undefined': ('NG', np.int32)}
_AXES = ARRAYS | OPTIONAL_ARRAYS


@dataclasses.dataclass(frozen=True, eq=False)
class Dump:
  """What a model did on a split at every threshold of a grid.

  Text arrays are NumPy unicode arrays, which drop trailing NUL characters.

  Attributes:
    example_ids: [N] text, unique.
    sources: [N] text, the model's input.
    references: [N] text, the target.
    predictions: [N, G] text, detokenized; column 0 is the full model.
    tokens: [N, G, T] int32, EOS included, 0 where there is no token.
    num_layers_used: [N, G, T] int8, 1..L, 0 where there is no token.
    confidences: [N, G, T] float32, at the exit, 0 where there is no token.
    trace_confidences: [N, T, L] float32, every layer's confidence along the
      full model's output, layer 1 first.
    trace_tokens: [N, T, L] int32, every layer's argmax along the same output.
    num_undefined: [N, G] int32, confidences that were NaN and so kept a token
      from leaving; None if not counted.

  Raises:
    DataError: when made, if a shape, type, id or layer count is impossible.
    NumericError: if a confidence is NaN or infinite.
  """

  example_ids: np.ndarray
  sources: np.ndarray
  references: np.ndarray
  predictions: np.ndarray
  tokens: np.ndarray
  num_layers_used: np.ndarray
  confidences: np.ndarray
  trace_confidences: np.ndarray
  trace_tokens: np.ndarray
  num_undefined: np.ndarray | None = None

  def __post_init__(self):
    self._check_shapes()
    self._check_ids()
    self._check_layers()
    self._check_confidences()

  @property
  def num_examples(self) -> int:
    return len(self.example_ids)

  @property
  def num_thresholds(self) -> int:
    return self.tokens.shape[1]

  def mean_layers(self) -> np.ndarray:
    """Returns [G]: layers per token, over all tokens of the split (EOS too)."""
    return mean_layers(self.num_layers_used)

  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays that are there, by name."""
    found = {name: getattr(self, name) for name in _AXES}
    return {name: array for name, array in found.items() if array is not None}

  @classmethod
  def concatenate(cls, parts: Sequence[Self]) -> Self:
    """Joins shards along the examples; optional arrays if all have them."""
    names = set.intersection(*(set(part.arrays()) for part in parts))
    return cls(
      **{
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in names
      }
    )

  def first_thresholds(self, count: int) -> Self:
    """The same examples at the first thresholds alone."""
    return dataclasses.replace(
      self,
      **{
        name: array[:, :count]
        for name, array in self.arrays().items()
        if _has_thresholds(name)
      },
    )

  def with_thresholds(self, more: Mapping[str, np.ndarray]) -> Self:
    """The same examples at further thresholds, `more` by name of the array."""
    return dataclasses.replace(
      self,
      **{
        name: np.concatenate([array, more[name]], axis=1)
        for name, array in self.arrays().items()
        if _has_thresholds(name)
      },
    )

  def _check_shapes(self) -> None:
    sizes: dict[str, int] = {}
    for name, (axes, kind) in _AXES.items():
      array = getattr(self, name)
      if array is None and name in OPTIONAL_ARRAYS:
        continue
      if not isinstance(array, np.ndarray) or array.dtype.type is not kind:
        got = getattr(array, 'dtype', type(array).__name__)
        raise errors.DataError(
          f'{name} must be a NumPy array of {kind.__name__}, got {got}.'
        )
      if array.ndim != len(axes):
        raise errors.DataError(
          f'{name} must have the axes {list(axes)}, got shape {array.shape}.'
        )
      for axis, size in zip(axes, array.shape, strict=True):
        if sizes.setdefault(axis, size) != size:
          raise errors.DataError(
            f'{name} has shape {array.shape}, but axis {axis} is'
            f' {sizes[axis]} in the arrays before it.'
          )

  def _check_ids(self) -> None:
    ids, counts = np.unique(self.example_ids, return_counts=True)
    if (counts > 1).any():
      raise errors.DataError(
        'Example ids must be unique, but these occur more than once:'
        f' {ids[counts > 1][:5].tolist()}.'
      )
    if '' in ids:
      raise errors.DataError('Every example needs an id, but one is empty.')

  def _check_layers(self) -> None:
    used, num_layers = self.num_layers_used, self.trace_tokens.shape[2]
    wrong = (used < 0) | (used > num_layers) | ((used == 0) & (self.tokens > 0))
    self._refuse(
      wrong, f'num_layers_used must be 1..{num_layers} where there is a token'
    )
    full = used[:, :1]
    self._refuse(
      (full != 0) & (full != num_layers),
      f'the full model (threshold 1) must use all {num_layers} layers',
    )
    if self.num_undefined is not None:
      self._refuse(self.num_undefined < 0, 'num_undefined must not be negative')

  def _check_confidences(self) -> None:
    for name in ('confidences', 'trace_confidences'):
      bad = ~np.isfinite(getattr(self, name))
      if bad.any():
        example, *place = np.argwhere(bad)[0].tolist()
        raise errors.NumericError(
          f'{name} must be finite, but {int(bad.sum())} are not; the first is'
          f' of example {self.example_ids[example]} at {ARRAYS[name][0][1:]} ='
          f' {place} (from 0). The model that made them computes NaN.'
        )

  def _refuse(self, wrong: np.ndarray, message: str) -> None:
    if wrong.any():
      example = self.example_ids[np.argwhere(wrong)[0][0]]
      raise errors.DataError(f'{message}, but not so in example {example}.')


def layers_and_tokens(
  num_layers_used: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Layers that outputs used, and how many tokens they have.

  Args:
    num_layers_used: [..., T], 1..L, 0 where there is no token.

  Returns:
    Layers of all tokens together, [...] int64, and tokens, [...] int64.
  """
  layers = num_layers_used.sum(axis=-1, dtype=np.int64)
  return layers, np.count_nonzero(num_layers_used, axis=-1)


def mean_layers(num_layers_used: np.ndarray) -> np.ndarray:
  """[N, G, T] -> [G]: layers per token, over all tokens; 0 without any."""
  layers, tokens = layers_and_tokens(num_layers_used)
  return layers.sum(axis=0) / np.maximum(tokens.sum(axis=0), 1)


def _has_thresholds(name: str) -> bool:
  return 'G' in _AXES[name][0]
