"""chrF of many texts against one reference, by array operations.

The same numbers as sacrebleu's `CHRF().sentence_score`, to the last bit (the
tests compare them), at a tenth of the time: a calibration scores one reference
against the output at every threshold. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

_MAX_ORDER = 6
# Recall counts as much as _BETA_SQUARED precisions (F2).
_BETA_SQUARED = 4


def chrf_scores(predictions: Sequence[str], reference: str) -> np.ndarray:
  """Returns [G], sentence chrF / 100 of each prediction (Popovic 2015).

  Character n-grams of up to 6 characters, white space left out; orders that one
  of the two texts is too short for do not count.
  """
  texts = [_without_space(text) for text in predictions]
  expected = _without_space(reference)
  lengths = np.array([len(text) for text in texts])
  matches = matching_ngrams(texts, expected)  # [G, orders]
  orders = np.arange(1, _MAX_ORDER + 1)
  predicted_totals = np.maximum(lengths[:, None] - orders + 1, 0)
  expected_totals = np.maximum(len(expected) - orders + 1, 0)
  counts = (predicted_totals > 0) & (expected_totals > 0)
  precisions = matches / np.maximum(predicted_totals, 1)
  recalls = matches / np.maximum(expected_totals, 1)
  return _f_score(_mean(precisions, counts), _mean(recalls, counts))


def matching_ngrams(texts: Sequence[str], reference: str) -> np.ndarray:
  """Returns [G, 6]: n-grams of each text that the reference has too, by order.

  One that occurs several times matches as often as it does in both.

  An n-gram of the reference is known by a number. A longer one is the pair of
  its beginning's number and its last character's, so equal numbers mean equal
  n-grams, and a text's n-gram whose beginning is unknown is never looked at.
  """
  matches = np.zeros((len(texts), _MAX_ORDER), np.int64)
  known = _codes(reference)
  found = _codes(''.join(texts))
  if not known.size or not found.size:
    return matches
  lengths = [len(text) for text in texts]
  owner = np.repeat(np.arange(len(texts)), lengths)
  ends = np.repeat(np.cumsum(lengths), lengths)
  alphabet, known_characters = np.unique(known, return_inverse=True)
  found_characters = _positions(alphabet, found)
  place = np.flatnonzero(found_characters >= 0)
  numbers, known_numbers = found_characters[place], known_characters
  for order in range(1, min(_MAX_ORDER, len(known)) + 1):
    if order > 1:
      # Extend every n-gram by the next character, where there is one.
      known_numbers = (
        known_numbers[:-1] * len(alphabet) + known_characters[order - 1 :]
      )
      inside = place + order <= ends[place]
      place, numbers = place[inside], numbers[inside]
      following = found_characters[place + order - 1]
      place, numbers = place[following >= 0], numbers[following >= 0]
      numbers = numbers * len(alphabet) + following[following >= 0]
      table, known_numbers = np.unique(known_numbers, return_inverse=True)
      numbers = _positions(table, numbers)
      place, numbers = place[numbers >= 0], numbers[numbers >= 0]
    if not place.size:
      break
    expected = np.bincount(known_numbers)
    predicted = np.bincount(
      owner[place] * len(expected) + numbers,
      minlength=len(texts) * len(expected),
    ).reshape(len(texts), -1)
    matches[:, order - 1] = np.minimum(predicted, expected).sum(axis=1)
  return matches


def _without_space(text: str) -> str:
  return ''.join(text.split())


def _codes(text: str) -> np.ndarray:
  """Code points; lone surrogates, which are no valid text, too."""
  return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')


def _positions(table: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Where each value stands in the sorted table, -1 if it does not."""
  positions = np.minimum(np.searchsorted(table, values), len(table) - 1)
  return np.where(table[positions] == values, positions, -1)


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """[G, orders] -> [G]: mean over the orders that count, 0 if none does."""
  total = np.zeros(len(values))
  # One order after the other, as sacrebleu adds: rounding depends on it.
  for order in range(values.shape[1]):
    total += np.where(counts[:, order], values[:, order], 0.0)
  return total / np.maximum(counts.sum(axis=1), 1)


def _f_score(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
  denominator = _BETA_SQUARED * precision + recall
  score = (1 + _BETA_SQUARED) * precision * recall
  score /= np.where(denominator > 0.0, denominator, 1.0)
  # Per cent and back, as sacrebleu's users do.
  return 100.0 * score / 100.0
