"""The split of an example, by a stable hash of its normalized target.

The split depends on nothing but the target's words, so the same target is never
in two splits, whatever the machine, the package versions or the task. `corpus`
drops the examples that quote a target of another split.
"""

import hashlib
from collections.abc import Mapping

from calm_jax import errors
from calm_jax.data import prose

# Percent of the hash range, in this order. Never change them: a shipped model
# would meet its training sentences again in somebody's test split.
SPLITS = {'train': 90, 'validation': 2, 'calibration': 4, 'test': 4}

_ID_DIGITS = 16


def check(split: str) -> None:
  """Raises ConfigError: there is no such split."""
  if split not in SPLITS:
    raise errors.ConfigError(
      f'A split must be one of {", ".join(SPLITS)}, got {split!r}.'
    )


def example_id_of(target: str) -> str:
  """Hexadecimal id: equal for targets that differ in case or punctuation."""
  words = words_of(target)
  return hashlib.sha256(words.encode('utf-8')).hexdigest()[:_ID_DIGITS]


def words_of(text: str) -> str:
  """What two texts must share to count as the same."""
  # Also the hyphens go: `well-known` and `well known` are one sentence.
  return prose.plain_words(text).replace('-', ' ')


def split_of(example_id: str) -> str:
  """Split of an id, from its place in the range of all ids."""
  return _place(example_id, SPLITS)


def held_out_split_of(example_id: str) -> str:
  """The same where a publisher has set training examples apart.

  The others become validation, calibration and test examples, in the
  proportions of `SPLITS`.
  """
  shares = {name: share for name, share in SPLITS.items() if name != 'train'}
  return _place(example_id, shares)


def _place(example_id: str, shares: Mapping[str, int]) -> str:
  place = int(example_id, 16) * sum(shares.values()) // 16**_ID_DIGITS
  upper = 0
  for name, share in shares.items():
    upper += share
    if place < upper:
      return name
  raise ValueError(f'An id has {_ID_DIGITS} hexadecimal digits: {example_id}')
