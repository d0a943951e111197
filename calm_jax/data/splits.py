"""Which split an example belongs to: a stable hash of its normalized target.

The split depends on nothing but the target's words, so the same sentence is
never in two splits, whatever the machine, the package versions or the task.
"""

import hashlib

from calm_jax.data import prose

# Shares of the hash range, in this order.
SPLITS = {'train': 0.90, 'validation': 0.02, 'calibration': 0.04, 'test': 0.04}

_ID_DIGITS = 16


def example_id_of(target: str) -> str:
  """Hexadecimal id: equal for targets that differ in case or punctuation."""
  # Also the hyphens go: `well-known` and `well known` are one sentence.
  words = prose.plain_words(target).replace('-', ' ')
  return hashlib.sha256(words.encode('utf-8')).hexdigest()[:_ID_DIGITS]


def split_of(example_id: str) -> str:
  """Split of an id, from its place in the range of all ids."""
  place = int(example_id, 16) / 16**_ID_DIGITS
  upper = 0.0
  for name, share in SPLITS.items():
    upper += share
    if place < upper:
      return name
  return name
