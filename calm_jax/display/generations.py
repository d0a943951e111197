"""Generated texts as a list that shows itself: in a notebook, on a terminal.

    generation.TextGenerator.generate --Generations--> Jupyter, IPython, print

Texts are untrusted: hidden characters are shown as their code, HTML is escaped,
and the page holds no script and no address.
"""

import html
import math
import sys
from collections.abc import Iterable
from typing import Any

from calm_jax.display import colors, terminal

_BLOCK = 'font-family:sans-serif;line-height:1.8'
# The spaces of pieces are kept, and nothing outside is reordered by a text.
_TEXT = 'white-space:pre-wrap;unicode-bidi:isolate;margin:0.3em 0'


class Generations(list):
  """A list of `generation.Generation`, which shows its layers by colour.

  Jupyter shows HTML; `print` and IPython colours on a terminal, else each piece
  with its number of layers, as `calm generate` does. `repr` is a list's.

  Attributes:
    num_layers: decoder layers of the model.
  """

  def __init__(self, generations: Iterable[Any], num_layers: int):
    super().__init__(generations)
    self.num_layers = num_layers

  def __getitem__(self, index):
    found = super().__getitem__(index)
    if isinstance(index, slice):
      return Generations(found, self.num_layers)
    return found

  def __reduce__(self):
    return Generations, (list(self), self.num_layers)

  def __str__(self) -> str:
    """One line per text, coloured where `terminal.wants_color` says so."""
    if not terminal.wants_color(sys.stdout):
      return '\n'.join(
        terminal.plain(each.pieces, each.num_layers_used) for each in self
      )
    lines = (
      terminal.colored(each.pieces, each.num_layers_used, self.num_layers)
      for each in self
    )
    return '\n'.join((terminal.legend(self.num_layers), *lines))

  def _repr_pretty_(self, printer, cycle: bool) -> None:
    del cycle  # A list of frozen records does not hold itself.
    printer.text(str(self))

  def _repr_html_(self) -> str:
    legend = ''.join(
      _shaded(f' {layer} ', layer, self.num_layers)
      for layer in range(1, self.num_layers + 1)
    )
    texts = ''.join(self._paragraph(each) for each in self)
    return (
      f'<div style="{_BLOCK}"><div style="white-space:pre-wrap">layers used:'
      f' {legend} {html.escape(self._summary())}</div>{texts}</div>'
    )

  def _paragraph(self, generation) -> str:
    pieces = ''.join(
      _shaded(text, used, self.num_layers, confidence)
      for text, used, confidence in zip(
        terminal.shown(generation.pieces),
        generation.num_layers_used,
        generation.confidences,
        strict=True,
      )
    )
    return f'<p dir="auto" style="{_TEXT}">{pieces}</p>'

  def _summary(self) -> str:
    used = [x for each in self for x in each.num_layers_used if x]
    if not used:
      return ''
    return f'mean {sum(used) / len(used):.2f} of {self.num_layers}'


def _shaded(
  text: str, used: int, num_layers: int, confidence: float = math.nan
) -> str:
  """A piece on the colour of its layers; one of a prompt, 0 layers, on none."""
  text = html.escape(text)
  if not used:
    return f'<span title="prompt">{text}</span>'
  title = f'{used} of {num_layers} layers'
  if not math.isnan(confidence):
    title += f', confidence {confidence:.3f}'
  background = colors.layer_color(used, num_layers)
  return (
    f'<span title="{title}" style="background:{background};'
    f'color:{colors.ink_on(background)}">{text}</span>'
  )
