"""Hidden characters become visible; pieces become the text they spell."""

import unicodedata

import pytest

from calm_jax.data import vocabulary
from calm_jax.display import visible_text
from calm_jax.records import contracts
from calm_jax.report import sample_view


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('plain, déjà vu — 漢字 \U0001f600', 'plain, déjà vu — 漢字 \U0001f600'),
    ('a\u202eb', 'a\\u202eb'),  # right-to-left override
    ('a\u2066b\u2069', 'a\\u2066b\\u2069'),  # isolates
    ('a\u200bb\ufeff', 'a\\u200bb\\ufeff'),  # no width
    ('\x1b[31m', '\\u001b[31m'),
    ('a\nb\tc', 'a\\nb\\tc'),
    ('x\ufe0f\u2800', 'x\\ufe0f\\u2800'),
    ('\U000e0041', '\\U000e0041'),  # tag characters
    ('\ud800', '\\ud800'),
  ],
)
def test_hidden_characters_are_shown(text, shown):
  assert visible_text.visible(text) == shown


def test_no_character_of_unicode_controls_what_stands_around_it():
  bidi = ('RLO', 'LRO', 'RLE', 'LRE', 'PDF', 'RLI', 'LRI', 'FSI', 'PDI')
  for code in range(0x3000):
    shown = visible_text.visible(chr(code))
    if unicodedata.bidirectional(chr(code)) in bidi or code < 32:
      assert shown.isascii() and shown.startswith('\\')
    shown.encode('utf-8')


def test_plain_is_what_the_tokenizer_decodes():
  tokenizer = vocabulary.default_tokenizer()
  for text in ('Return None.', 'Déjà 漢字 \U0001f600 x.', 'a', ''):
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces(ids)
    assert visible_text.plain(pieces) == tokenizer.decode(ids) == text
    assert visible_text.plain([*pieces, '</s>', '▁rest']) == text


def test_split_piece():
  assert visible_text.split_piece('▁the') == (True, 'the')
  assert visible_text.split_piece('ory') == (False, 'ory')
  assert visible_text.split_piece('▁') == (True, '\u2423')
  assert visible_text.split_piece('</s>') == (True, '\u220e')


def make_sample(pieces, full):
  return contracts.Sample(
    'id', 'source', 'reference', tuple(pieces), (2,) * len(pieces), full
  )


def test_a_sample_that_differs_marks_the_full_model_s_words():
  view = sample_view.view(
    make_sample(['▁One', '▁too', '▁three', '.', '</s>'], 'One two three.')
  )
  assert view.differs
  assert view.full_words == (('One', False), ('two', True), ('three.', False))
  assert [token.starts_word for token in view.tokens] == [1, 1, 1, 0, 1]
  assert view.tokens[-1].is_end and view.mean_layers == 2


def test_white_space_alone_is_no_difference():
  view = sample_view.view(make_sample(['▁One', '▁two', '</s>'], ' One  two'))
  assert not view.differs
  assert not any(other for _, other in view.full_words)


def test_empty_outputs():
  assert not sample_view.view(make_sample([], '')).differs
  view = sample_view.view(make_sample([], 'text'))
  assert view.differs and view.full_words == (('text', True),)
