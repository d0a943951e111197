"""Finds texts that quote a known sentence, so that splits stay apart.

A target has its split from its own words. A docstring that is the input of
another example can quote that target, so training could read what a test asks.
"""

from collections.abc import Iterable

from calm_jax.data import splits

_KEY_WORDS = 3


class SentenceIndex:
  """Finds any of many sentences in a text, by words alone.

  Case, punctuation and the marks of lists and code do not matter, as they do
  not for `splits.example_id_of`.

  Args:
    sentences: those of fewer than three words are not looked for, since they
      are part of everything.
  """

  def __init__(self, sentences: Iterable[str]):
    self._by_start: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for sentence in sentences:
      words = tuple(splits.words_of(sentence).split())
      if len(words) >= _KEY_WORDS:
        self._by_start.setdefault(words[:_KEY_WORDS], set()).add(words)

  def occurs_in(self, text: str) -> bool:
    """Whether any of the sentences stands in `text`, word for word."""
    words = tuple(splits.words_of(text).split())
    return any(
      words[i : i + len(sentence)] == sentence
      for i in range(len(words) - _KEY_WORDS + 1)
      for sentence in self._by_start.get(words[i : i + _KEY_WORDS], ())
    )
