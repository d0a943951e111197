"""Case factored out of the vocabulary: `The API` is `⇑ the ⇧ api`.

A marker word before a word says that it is Capitalized (⇑) or in CAPITALS (⇧);
the word itself is in lower case. So the words of a restored sentence are the
very pieces of its input, and restoring case is one decision per word, not a new
spelling. It is done by the normalization rules inside the SentencePiece model
and undone by its denormalization rules: whatever reads the file (this package,
seqio, TensorFlow Text) does it, with no code of its own.

`vocabulary` trains with these rules, and shows its pieces with their help.
"""

import collections
import functools
import itertools
import pathlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

MARKERS = CAPITALIZED, CAPITALS = '⇑', '⇧'
# What a marker that stands in a text becomes.
_ARROW = '↑'

_WORD_IN_CAPITALS = re.compile(r'(?<![A-Za-z])[A-Z]{2,}')
_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)


def words_in_capitals(texts: Iterable[str], count: int) -> list[str]:
  """The most frequent words in capitals, which get the marker ⇧.

  Rules of SentencePiece replace fixed strings, so they know a word in capitals
  only from a list; any other is marked letter by letter (⇑ x⇑ y), which is as
  reversible and takes more pieces.
  """
  found = collections.Counter(
    word for text in texts for word in _WORD_IN_CAPITALS.findall(text)
  )
  # By name among equals: the same texts give the same list.
  ranked = sorted(found, key=lambda word: (-found[word], word))
  return sorted(ranked[:count])


def normalization_rules(words: Sequence[str]) -> dict[str, str]:
  """String -> its replacement: NFKC, spaces, and case as markers.

  Args:
    words: written in capitals, to be marked as a whole.

  Returns:
    Rules that `denormalization_rules(words)` undoes, but for NFKC itself and
    for markers in the text, which become ↑.
  """
  rules = {
    source: _marked_letters(target)
    for source, target in _unicode_rules().items()
  }
  rules |= _marked_characters()
  rules |= {marker: _ARROW for marker in MARKERS}
  for word in words:
    rules[word] = f'{CAPITALS} {word.lower()}'
  for word in words:
    for start in words:
      # `IDe` must not look like `IDE` where both `ID` and `IDE` are listed.
      if word != start and word.startswith(start):
        mixed = start + word[len(start) :].lower()
        rules[mixed] = _marked_letters(mixed)
  return rules


def denormalization_rules(words: Sequence[str]) -> dict[str, str]:
  """String with markers -> what it stands for."""
  rules = {marked: letter for letter, marked in _marked_characters().items()}
  rules |= {f'{CAPITALS} {word.lower()}': word for word in words}
  # A model may write a marker before anything: it changes nothing there.
  for marker in MARKERS:
    rules[f'{marker} '] = rules[marker] = ''
  return rules


def write_rules(path: pathlib.Path, rules: Mapping[str, str]) -> None:
  """Writes SentencePiece's TSV: code points of source and target, in hex."""
  lines = (f'{_hex(x)}\t{_hex(rules[x])}\n' for x in sorted(rules))
  path.write_text(''.join(lines), encoding='ascii')


def is_marker(piece: str) -> bool:
  """True for a piece that is a marker, with or without its word mark."""
  return piece.removeprefix('▁') in MARKERS


def shown_word(pieces: Sequence[str], text: str) -> list[str]:
  """Pieces of a marked word as parts of the text that they spell.

  Args:
    pieces: a marker and the pieces of its word.
    text: the word as decoded.

  Returns:
    As many pieces. The marker has the first letter, unless its word has no
    other in that piece; of a word spelled in bytes it has all.
  """
  start = '▁' if pieces[0].startswith('▁') else ''
  if any(piece.startswith('<0x') for piece in pieces):
    return [start + text, *[''] * (len(pieces) - 1)]
  lengths = [len(piece.removeprefix('▁')) for piece in pieces]
  # The marker itself is no character of the text.
  lengths[0] = 0
  if len(lengths) > 1 and lengths[1] > 1:
    lengths[0], lengths[1] = 1, lengths[1] - 1
  characters = iter(text)
  parts = [''.join(itertools.islice(characters, n)) for n in lengths]
  return [start + parts[0], *parts[1:]]


def _hex(text: str) -> str:
  return ' '.join(f'{ord(x):X}' for x in text)


@functools.cache
def _unicode_rules() -> dict[str, str]:
  """NFKC of every character, also written with combining marks; spaces."""
  rules = {}
  # Without NUL, which ends a C string.
  for code in range(1, sys.maxunicode + 1):
    character = chr(code)
    category = unicodedata.category(character)
    if category in ('Cs', 'Co', 'Cn'):
      continue
    if character in '\t\n\r' or category in ('Zs', 'Zl', 'Zp'):
      rules[character] = ' '
    elif category in ('Cc', 'Cf'):
      rules[character] = ''
    else:
      composed = unicodedata.normalize('NFKC', character)
      rules[character] = composed
      # Hangul jamo are left apart: 11,000 rules for a script that no sentence
      # of the built-in tasks has.
      if code not in _HANGUL_SYLLABLES:
        rules[unicodedata.normalize('NFD', character)] = composed
  return {x: y for x, y in rules.items() if x != y}


@functools.cache
def _marked_characters() -> dict[str, str]:
  """Capital letter -> marker and small letter, where that can be undone."""
  letters = map(chr, range(sys.maxunicode + 1))
  return {
    x: f'{CAPITALIZED} {x.lower()}'
    for x in letters
    if unicodedata.category(x) == 'Lu'
    and unicodedata.normalize('NFKC', x) == x
    and len(x.lower()) == 1
    and x.lower().upper() == x
  }


def _marked_letters(text: str) -> str:
  return ''.join(_marked_characters().get(x, x) for x in text)
