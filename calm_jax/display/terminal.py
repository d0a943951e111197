"""Text whose pieces carry a number of layers, for a terminal or a pipe.

Below `calm generate` and `print(model.generate(...))`. Pure functions: strings
in, strings out. Generated text is untrusted; what a terminal would obey is
shown, not sent.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TextIO

from calm_jax.display import visible_text

_RESET = '\x1b[0m'

# Background and text among xterm's 256 colours, pale to dark as in the report;
# each pair has a contrast of 4.5 or more.
_SCALE = (
  (195, 16),
  (153, 16),
  (117, 16),
  (75, 16),
  (68, 16),
  (32, 16),
  (25, 231),
  (18, 231),
)


def wants_color(
  stream: TextIO, environment: Mapping[str, str] = os.environ
) -> bool:
  """Whether to colour: a terminal, and no NO_COLOR (https://no-color.org)."""
  if environment.get('NO_COLOR'):
    return False
  if environment.get('TERM') == 'dumb':
    return False
  return stream.isatty()


def shown(pieces: Sequence[str]) -> list[str]:
  """Pieces as read: word marks are spaces, but for the first one's."""
  texts = [
    visible_text.visible(piece).replace(visible_text.WORD_START, ' ')
    for piece in pieces
  ]
  if texts:
    texts[0] = texts[0].removeprefix(' ')
  return texts


def color_of(num_layers_used: int, num_layers: int) -> str:
  """The escape sequence for 1..num_layers layers; more layers are darker."""
  if not 1 <= num_layers_used <= num_layers:
    raise ValueError(
      f'num_layers_used must be in 1..{num_layers}, got {num_layers_used}'
    )
  place = (num_layers_used - 1) / max(num_layers - 1, 1)
  background, text = _SCALE[round(place * (len(_SCALE) - 1))]
  return f'\x1b[48;5;{background}m\x1b[38;5;{text}m'


def colored(
  pieces: Sequence[str], num_layers_used: Sequence[int], num_layers: int
) -> str:
  """The text with each piece on the colour of its layers.

  Args:
    pieces: SentencePiece pieces, with their word marks.
    num_layers_used: layers of each piece, 1..num_layers; 0 for a piece of a
      prompt, which has no colour.
    num_layers: decoder layers of the model.
  """
  return ''.join(
    f'{color_of(used, num_layers)}{text}{_RESET}' if used else text
    for text, used in zip(shown(pieces), num_layers_used, strict=True)
  )


def plain(pieces: Sequence[str], num_layers_used: Sequence[int]) -> str:
  """`piece/layers` joined by spaces, for pipes and files."""
  return ' '.join(
    f'{visible_text.visible(piece)}/{used}'
    for piece, used in zip(pieces, num_layers_used, strict=True)
  )


def legend(num_layers: int) -> str:
  """One line that shows the colour of each number of layers."""
  numbers = ''.join(
    f'{color_of(used, num_layers)} {used} {_RESET}'
    for used in range(1, num_layers + 1)
  )
  return f'layers used: {numbers}'
