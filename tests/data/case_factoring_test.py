"""Tests of the case markers, by their rules and through SentencePiece."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calm_jax.data import case_factoring, vocabulary
from calm_jax.display import visible_text

WORDS = ['API', 'ID', 'IDE', 'IDS', 'JSON']


NORMALIZATION = case_factoring.normalization_rules(WORDS)
DENORMALIZATION = case_factoring.denormalization_rules(WORDS)


def replaced(text: str, rules: dict[str, str]) -> str:
  """Longest rule first, from left to right, as SentencePiece does."""
  longest = max(map(len, rules))
  result, at = [], 0
  while at < len(text):
    for size in range(min(longest, len(text) - at), 0, -1):
      if (source := text[at : at + size]) in rules:
        result.append(rules[source])
        at += size
        break
    else:
      result.append(text[at])
      at += 1
  return ''.join(result)


def marked(text: str) -> str:
  return replaced(text, NORMALIZATION)


def unmarked(text: str) -> str:
  return replaced(text, DENORMALIZATION)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('The API', '⇑ the ⇧ api'),
    ('APIs', '⇧ apis'),
    # `IDS` is a word of the list as well, and has ⇧ ids.
    ('IDs', '⇑ i⇑ ds'),
    ('an IDE', 'an ⇧ ide'),
    ('an IDe', 'an ⇑ i⇑ de'),
    ('NumPy XY', '⇑ num⇑ py ⇑ x⇑ y'),
    ('École', '⇑ école'),
    ('E\u0301cole', '⇑ école'),
    ('Ａ ﬁeld', '⇑ a field'),
    ('a\tb\xa0c\u200b', 'a b c'),
    ('⇑ up', '↑ up'),
  ],
)
def test_marked_text(text, expected):
  assert marked(text) == expected


def test_only_frequent_words_have_a_marker_of_their_own():
  texts = ['The API and the URL', 'API', 'an URL', 'API', 'a CPU', 'McDONALD']
  assert case_factoring.words_in_capitals(texts, 2) == ['API', 'URL']


LETTERS = st.text(
  alphabet=st.sampled_from('IDESAPIJSONidesapx .,-é'), max_size=20
)


@given(LETTERS)
def test_markers_are_undone(text):
  assert unmarked(marked(text)) == text


@given(st.text(st.characters(categories=['L', 'N', 'P', 'S']), max_size=20))
def test_any_text_comes_back_composed(text):
  # Normalized as a whole, since combining marks may meet their letters.
  expected = unicodedata.normalize('NFKC', text)
  expected = expected.replace('⇑', '↑').replace('⇧', '↑')
  assert unicodedata.normalize('NFKC', unmarked(marked(text))) == expected


def test_stray_markers_vanish():
  assert unmarked('⇑ 1 ⇧ zebra ⇑') == '1 zebra '


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  """Trained on two sentences: `API` is a word of its list, `XYZ` is not."""
  path = tmp_path_factory.mktemp('case') / 'case.model'
  sentences = [
    'The API (of a Server) returns "JSON", which a client reads again.',
    'Quick brown foxes jump over the lazy dog; mixed vowels go zigzag.',
  ] * 9
  vocabulary.train_vocabulary(path, vocab_size=300, sentences=sentences)
  return vocabulary.Tokenizer(path)


@pytest.mark.parametrize(
  'text',
  [
    'The API of a Server returns JSON.',
    'APIs, A Server; XYZ iPhone McX',
    'É É 猫 Straße',
    '(The) "API"',
    '',
  ],
)
def test_pieces_spell_the_text(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  pieces = tokenizer.pieces(ids)
  assert len(pieces) == len(ids)
  assert visible_text.plain(pieces) == text


def test_case_changes_no_other_piece(tokenizer):
  lower = tokenizer.encode('the api of a server')
  written = tokenizer.encode('The API Of A Server')
  markers = {tokenizer.encode(x)[0] for x in ('The', 'API')}
  assert len(markers) == 2
  assert [x for x in written if x not in markers] == lower


def test_markers_show_as_the_letter_that_they_make():
  tokenizer = vocabulary.default_tokenizer()
  pieces = tokenizer.pieces(tokenizer.encode('The API'))
  assert pieces == ('▁T', 'he', '▁A', 'PI')


def test_a_single_letter_stays_with_its_word(tokenizer):
  assert tokenizer.pieces(tokenizer.encode('A server'))[:2] == ('▁', 'A')


def test_pieces_of_any_tokens(tokenizer):
  """A model may write markers in a row, at the end, or before anything."""
  up = tokenizer.encode('The')[0]
  for ids in ([up], [up, up], [up, 1], [up, 2, 270], [up, 0, up, 70, 275]):
    assert len(tokenizer.pieces(ids)) == len(ids)
