import io
import re

import pytest

from calm_jax.display import terminal

PIECES = ['▁Restore', 's', '▁the', '▁case', '.']
LAYERS = [8, 1, 2, 4, 1]


class Stream(io.StringIO):
  def __init__(self, is_terminal):
    super().__init__()
    self._is_terminal = is_terminal

  def isatty(self):
    return self._is_terminal


def without_colors(text):
  return re.sub(r'\x1b\[[0-9;]*m', '', text)


def test_colored_text_reads_as_the_sentence():
  text = terminal.colored(PIECES, LAYERS, 8)
  assert without_colors(text) == 'Restores the case.'
  assert text.endswith('\x1b[0m')


def test_plain_text_pairs_each_piece_with_its_layers():
  expected = '▁Restore/8 s/1 ▁the/2 ▁case/4 ./1'
  assert terminal.plain(PIECES, LAYERS) == expected


def test_each_layer_count_has_its_own_color_of_eight():
  colors = [terminal.color_of(i, 8) for i in range(1, 9)]
  assert len(set(colors)) == 8


@pytest.mark.parametrize('num_layers', [1, 2, 12, 24])
def test_every_depth_of_model_has_colors(num_layers):
  legend = without_colors(terminal.legend(num_layers))
  assert legend.split() == [
    'layers',
    'used:',
    *map(str, range(1, num_layers + 1)),
  ]


@pytest.mark.parametrize('used', [0, 9, -1])
def test_impossible_layer_counts_are_refused(used):
  with pytest.raises(ValueError, match=f'1..8, got {used}'):
    terminal.color_of(used, 8)


def test_lengths_must_agree():
  with pytest.raises(ValueError):
    terminal.colored(PIECES, LAYERS[:-1], 8)


def test_a_piece_cannot_reorder_or_end_a_line():
  pieces = ['▁a\n', '\u202eb', '\x9bc']
  expected = '▁a\\n/1 \\u202eb/1 \\u009bc/2'
  assert terminal.plain(pieces, [1, 1, 2]) == expected


def test_hostile_pieces_stay_inside_their_color():
  text = terminal.colored(['▁a\x1b[0m', '\x07'], [1, 2], 2)
  assert without_colors(text) == 'a\\u001b[0m\\u0007'


@pytest.mark.parametrize(
  ('is_terminal', 'environment', 'expected'),
  [
    (True, {}, True),
    (False, {}, False),
    (True, {'NO_COLOR': '1'}, False),
    (True, {'NO_COLOR': ''}, True),
    (True, {'TERM': 'dumb'}, False),
  ],
)
def test_fault_67_color_is_for_terminals_that_want_it(
  is_terminal, environment, expected
):
  assert terminal.wants_color(Stream(is_terminal), environment) is expected
