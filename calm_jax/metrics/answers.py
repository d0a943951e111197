"""SQuAD's scores of an answer, the best over all answers that people gave.

A reference holds the answers, one a line. Words are compared as by SQuAD's own
script (Rajpurkar et al. 2016): in lower case, without ASCII punctuation and
English articles. `text_metrics` gives these functions their names.
"""

import collections
import re
import string
from collections.abc import Iterable

_PUNCTUATION = str.maketrans('', '', string.punctuation)


def join(answers: Iterable[str]) -> str:
  """One reference of several answers, each once, in their order."""
  return '\n'.join(
    dict.fromkeys(' '.join(answer.split()) for answer in answers)
  )


def f1(prediction: str, reference: str) -> float:
  """The greatest F1 of the bags of words over the reference's answers."""
  return max(word_f1(prediction, answer) for answer in reference.split('\n'))


def exact_match(prediction: str, reference: str) -> float:
  """1 if the words are those of one of the reference's answers, else 0."""
  predicted = normalized_words(prediction)
  return float(
    any(
      predicted == normalized_words(answer) for answer in reference.split('\n')
    )
  )


def word_f1(prediction: str, answer: str) -> float:
  """F1 of the bags of normalized words of two texts; 1 if both have none."""
  predicted, expected = normalized_words(prediction), normalized_words(answer)
  if not predicted or not expected:
    return float(predicted == expected)
  common = collections.Counter(predicted) & collections.Counter(expected)
  return 2.0 * common.total() / (len(predicted) + len(expected))


def normalized_words(text: str) -> list[str]:
  """Lower case, without ASCII punctuation and English articles."""
  text = text.lower().translate(_PUNCTUATION)
  return re.sub(r'\b(a|an|the)\b', ' ', text).split()
