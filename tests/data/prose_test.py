"""Tests of what counts as clean prose."""

import pytest

from calm_jax.data import prose


@pytest.mark.parametrize(
  'sentence',
  [
    'Returns the shape of the input array.',
    "It's a well-known fact, e.g., in Python, that users' lists grow.",
    'Does the JSON API keep all IDs in order?',
    'The server waits for 30 seconds, then it stops; see below.',
  ],
)
def test_clean(sentence):
  assert prose.is_clean(sentence)


@pytest.mark.parametrize(
  ('sentence', 'why'),
  [
    ('Returns the shape of it.', 'five words'),
    ('A ' + 'very ' * 27 + 'long sentence.', 'too many words'),
    ('returns the shape of the input array.', 'no capital'),
    ('Returns the shape of the input array', 'no end'),
    ('Returns the num_items of the input array.', 'snake case'),
    ('Returns the numItems of the input array.', 'camel case'),
    ('Returns the `shape` of the input array.', 'backticks'),
    ("Returns the 'shape' of the input array.", 'quotes'),
    ('Returns the shape (if any) of the array.', 'parentheses'),
    ('Returns the shape - if any - of the array.', 'dashes'),
    ('Returns the shape -- if any -- of the array.', 'dashes'),
    ('See https://example.com for the full list here.', 'link'),
    ('The value x=3 is the one to use.', 'code'),
    ('Die Länge der Liste ist hier immer bekannt.', 'not ASCII'),
    ('The first  one has two spaces in it.', 'white space'),
    ('', 'empty'),
  ],
)
def test_not_clean(sentence, why):
  assert not prose.is_clean(sentence), why


def test_plain_words_are_what_a_recognizer_writes():
  text = "Don’t stop: the U.S. model, e.g., is well-known -- it's 'fine'."
  expected = "don't stop the us model eg is well-known it's fine"
  assert prose.plain_words(text) == expected


def test_plain_words_of_a_clean_sentence_keep_its_words():
  sentence = "It's a well-known fact, e.g., in Python, that users' lists grow."
  words = prose.plain_words(sentence).split()
  assert len(words) == len(sentence.split())
  assert prose.plain_words(' '.join(words)).split() == words


def test_sentences_of_a_docstring():
  docstring = """Computes the sum of all the values.

The sum is taken in `float32`, which may overflow. It's slower than the
other one, e.g. Python's own, but it gives a good answer.

>>> Total of the things in the list.

Name      Age of the
----      ----
Some      Words of the table in here.

Args:
  first: The first of the values to add,
    on more than one line here.
  second (int): Is this the second one, or not?
  * Every item of the list must be positive.
Nothing more is said about the `first` value.
"""
  assert prose.clean_sentences(docstring) == [
    'Computes the sum of all the values.',
    "It's slower than the other one, e.g. Python's own, but it gives a good"
    ' answer.',
    'The first of the values to add, on more than one line here.',
    'Is this the second one, or not?',
    'Every item of the list must be positive.',
    'Nothing more is said about the first value.',
  ]


def test_an_abbreviation_ends_no_sentence():
  text = 'Use a list, e.g. Python has one. Then go on.'
  assert prose.split_sentences(text) == [
    'Use a list, e.g. Python has one.',
    'Then go on.',
  ]


def test_summary():
  docstring = 'Reads one file\nfrom the disk.\n\nThe rest\n  is here.\n\nMore.'
  assert prose.summary_of(docstring) == (
    'The rest is here. More.',
    'Reads one file from the disk.',
  )


def test_half_a_surrogate_pair_is_left_out():
  docstring = 'Reads one file from disk.\n\nUses \ud800 too.'
  assert prose.summary_of(docstring)[0] == 'Uses  too.'


@pytest.mark.parametrize(
  'docstring',
  [
    'Reads one file from the disk.',
    'Reads a file.\n\nThe rest.',
    'word ' * 31 + '\n\nThe rest.',
    ':param x: is what you give it.\n\nThe rest.',
    'Liest die Länge der Datei.\n\nThe rest.',
    '',
    '   \n\n  ',
  ],
)
def test_no_summary(docstring):
  assert prose.summary_of(docstring) is None
