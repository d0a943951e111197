"""One sample output as the page shows it: tokens, layers, differences.

contracts.Sample -> SampleView -> report.html.jinja
"""

import dataclasses
import difflib

from calm_jax.display import visible_text
from calm_jax.records import contracts


@dataclasses.dataclass(frozen=True)
class TokenView:
  """One token: its text, the layers it used, whether a word starts there."""

  text: str
  layers: int
  starts_word: bool
  is_end: bool


@dataclasses.dataclass(frozen=True)
class SampleView:
  """A sample ready to be shown.

  `full_words` are the words of the full model's output; True where the
  calibrated output has something else.
  """

  example_id: str
  source: str
  reference: str
  tokens: tuple[TokenView, ...]
  mean_layers: float
  differs: bool
  full_words: tuple[tuple[str, bool], ...]


def view(sample: contracts.Sample) -> SampleView:
  """Prepares a sample; escaping is the template's work."""
  calibrated = visible_text.plain(sample.pieces)
  used = sample.num_layers_used
  return SampleView(
    example_id=sample.example_id,
    source=sample.source,
    reference=sample.reference,
    tokens=tuple(map(_token, sample.pieces, used)),
    mean_layers=sum(used) / max(len(used), 1),
    differs=not visible_text.same(calibrated, sample.full_prediction),
    full_words=marked(calibrated, sample.full_prediction),
  )


def _token(piece: str, layers: int) -> TokenView:
  starts_word, text = visible_text.split_piece(piece)
  return TokenView(
    text=text,
    layers=layers,
    starts_word=starts_word,
    is_end=piece == visible_text.END_OF_TEXT,
  )


def marked(calibrated: str, full: str) -> tuple[tuple[str, bool], ...]:
  """Returns the full output's words, marked where the other one departs."""
  words = full.split()
  matcher = difflib.SequenceMatcher(
    None, calibrated.split(), words, autojunk=False
  )
  marked = []
  for operation, _, _, first, last in matcher.get_opcodes():
    marked += [(word, operation != 'equal') for word in words[first:last]]
  return tuple(marked)
