"""Text as a reader may see it: nothing hidden, nothing reordered.

Outputs and inputs are untrusted. Escaping HTML is the template's work; here
characters that are invisible, or that reorder what stands around them, become
their code as `\\u202e`, so that a page shows what the text holds.
"""

import re
import unicodedata
from collections.abc import Sequence

END_OF_TEXT = '</s>'  # T5's name of the EOS piece
WORD_START = '\u2581'  # SentencePiece's mark, ▁
_BYTES = re.compile(r'(?:<0x[0-9A-Fa-f]{2}>)+')
# Control, format (bidi, zero width), surrogates, private use, unassigned, line
# and paragraph separators.
_HIDDEN_CATEGORIES = frozenset(('Cc', 'Cf', 'Cs', 'Co', 'Cn', 'Zl', 'Zp'))
# Letters and marks that draw nothing all the same: fillers, the blank Braille
# cell, joiners and variation selectors.
_HIDDEN = frozenset(
  (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
  + (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
  + tuple(range(0xE0100, 0xE01F0))
)
_SHORT = {'\n': '\\n', '\r': '\\r', '\t': '\\t'}


def visible(text: str) -> str:
  """Returns the text with every hidden character as its code."""
  return ''.join(map(_visible_character, text))


def plain(pieces: Sequence[str]) -> str:
  """Returns the text that SentencePiece pieces spell, up to the end piece."""
  pieces = list(pieces)
  if END_OF_TEXT in pieces:
    pieces = pieces[: pieces.index(END_OF_TEXT)]
  text = ''.join(pieces).replace(WORD_START, ' ')
  return _BYTES.sub(_decoded, text).strip()


def same(first: str, second: str) -> bool:
  """Whether two texts are equal but for the amount of white space."""
  return first.split() == second.split()


def split_piece(piece: str) -> tuple[bool, str]:
  """Returns whether a word starts here, and what is to be shown of it."""
  if piece == END_OF_TEXT:
    return True, '\u220e'  # ∎, the end of a proof
  text = piece.replace(WORD_START, ' ')
  shown = text.lstrip(' ')
  # A token that is nothing but white space is still a token.
  return shown != text, shown or '\u2423'


def _visible_character(character: str) -> str:
  code = ord(character)
  hidden = unicodedata.category(character) in _HIDDEN_CATEGORIES
  if not hidden and code not in _HIDDEN:
    return character
  if character in _SHORT:
    return _SHORT[character]
  return f'\\u{code:04x}' if code <= 0xFFFF else f'\\U{code:08x}'


def _decoded(match: re.Match) -> str:
  """Byte-fallback pieces: <0xC3><0xA9> is é."""
  values = bytes(int(code, 16) for code in match[0][3:-1].split('><0x'))
  return values.decode('utf-8', errors='replace')
