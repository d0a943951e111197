"""Generated texts show their layers, and obey nothing that they hold."""

import copy
import html.parser
import io
import math
import re

import pytest
from testing import hostile

from calm_jax.decode import generation
from calm_jax.display import colors, generations

NAN = math.nan


def made(pieces, used, confidences=None):
  return generation.Generation(
    text=''.join(pieces).replace('▁', ' ').strip(),
    pieces=tuple(pieces),
    tokens=tuple(range(2, 2 + len(pieces))),
    num_layers_used=tuple(used),
    confidences=tuple(confidences or [0.5] * len(pieces)),
    log_prob=-1.0,
  )


FOUND = generations.Generations(
  [
    made(['▁Restore', 's', '.'], [0, 1, 8], [NAN, 0.25, NAN]),
    made(['▁a', '▁<b>'], [4, 4]),
  ],
  num_layers=8,
)


class Page(html.parser.HTMLParser):
  """The elements of a page, and the spans with their text."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.spans = set(), []
    self.feed(page)

  def handle_starttag(self, tag, attributes):
    self.tags.add(tag)
    if tag == 'span':
      self.spans.append([dict(attributes), ''])
    assert not {name for name, _ in attributes} - {'style', 'title', 'dir'}

  def handle_data(self, data):
    if self.spans:
      self.spans[-1][1] += data


def pieces_of(page):
  """Attributes and text of the pieces' spans, without the legend's."""
  return Page(page.partition('<p ')[2].join(('<p ', ''))).spans


def test_is_the_list_that_it_was():
  assert FOUND == list(FOUND) and isinstance(FOUND, list) and len(FOUND) == 2
  assert repr(FOUND) == repr(list(FOUND))
  assert type(FOUND[:1]) is generations.Generations
  assert FOUND[1].text == 'a <b>'
  again = copy.deepcopy(FOUND[1:])
  assert again == FOUND[1:] and again.num_layers == 8


def test_a_notebook_shows_each_piece_on_the_colour_of_its_layers():
  spans = pieces_of(FOUND._repr_html_())
  assert [text for _, text in spans] == ['Restore', 's', '.', 'a', ' <b>']
  assert [attributes['title'] for attributes, _ in spans] == [
    'prompt',
    '1 of 8 layers, confidence 0.250',
    '8 of 8 layers',
    *['4 of 8 layers, confidence 0.500'] * 2,
  ]
  assert 'style' not in spans[0][0]
  for (attributes, _), used in zip(spans[1:], (1, 8, 4, 4), strict=True):
    background = colors.layer_color(used, 8)
    assert attributes['style'].startswith(f'background:{background};')
  assert 'mean 4.25 of 8' in FOUND._repr_html_()


@pytest.mark.parametrize('text', hostile.EVERYTHING)
def test_hostile_text_is_shown_and_not_obeyed(text, monkeypatch):
  found = generations.Generations([made([text, '▁' + text], [1, 2])], 2)
  page = found._repr_html_()
  assert Page(page).tags == {'div', 'p', 'span'}
  assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]'
                       '|[\u2066-\u2069]', page)  # fmt: skip
  for stream in (io.StringIO(), Terminal()):
    monkeypatch.setattr('sys.stdout', stream)
    monkeypatch.delenv('NO_COLOR', raising=False)
    shown = re.sub(r'\x1b\[(0|[34]8;5;\d+)m', '', str(found))
    assert shown.replace('\n', '').isprintable()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm-256color')
  monkeypatch.delenv('NO_COLOR', raising=False)
  monkeypatch.setattr('sys.stdout', Terminal())
  legend, first, second = str(FOUND).split('\n')
  assert 'layers used' in legend and '\x1b[48;5;' in first
  assert re.sub(r'\x1b\[[0-9;]*m', '', second) == 'a <b>'
  monkeypatch.setenv('NO_COLOR', '1')
  assert str(FOUND) == '▁Restore/0 s/1 ./8\n▁a/4 ▁<b>/4'


def test_nothing_generated_shows_as_nothing(monkeypatch):
  monkeypatch.setenv('NO_COLOR', '1')
  empty = generations.Generations([], 3)
  assert str(empty) == ''
  assert pieces_of(empty._repr_html_()) == []
