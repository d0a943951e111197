"""SQuAD's scores against its definition and worked examples."""

import statistics

import hypothesis
import pytest
from hypothesis import strategies as st

from calm_jax.metrics import answers, text_metrics

WORDS = st.lists(st.sampled_from(['the', 'An', 'red', 'red.', 'cow', '']))


@pytest.mark.parametrize(
  ('prediction', 'given', 'f1', 'exact'),
  [
    # T5 writes punctuation apart, in predictions and answers.
    ('5 . 2 %', ['5 . 2 %', 'about 5 percent'], 1.0, 1.0),
    ('The Normans .', ['normans'], 1.0, 1.0),
    # Two of three words, one of them also in the second answer.
    ('in the old town', ['old town hall', 'in'], 2 / 3, 0.0),
    ('France', ['in 911', 'Rollo'], 0.0, 0.0),
    # An answer of an article alone has no words.
    ('the', ['a', 'cow'], 1.0, 1.0),
    ('cow', ['the'], 0.0, 0.0),
  ],
)
def test_worked_examples(prediction, given, f1, exact):
  reference = answers.join(given)
  assert text_metrics.squad_f1(prediction, reference) == pytest.approx(f1)
  assert text_metrics.squad_exact_match(prediction, reference) == exact


def test_answers_are_joined_once_and_one_a_line():
  assert answers.join(['a b', 'c', 'a b', ' a\nb']) == 'a b\nc'


@hypothesis.given(WORDS, WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(first, second):
  prediction, answer = ' '.join(first), ' '.join(second)
  predicted = answers.normalized_words(prediction)
  expected = answers.normalized_words(answer)
  left = list(expected)
  for word in predicted:
    if word in left:
      left.remove(word)
  common = len(expected) - len(left)
  f1 = float(predicted == expected)
  if common:
    f1 = statistics.harmonic_mean(
      [common / len(predicted), common / len(expected)]
    )
  assert answers.word_f1(prediction, answer) == pytest.approx(f1)


@hypothesis.given(st.lists(WORDS, min_size=1, max_size=3), WORDS)
def test_the_best_answer_counts(given, words):
  prediction = ' '.join(words)
  lines = [' '.join(answer) for answer in given]
  reference = '\n'.join(lines)
  assert answers.f1(prediction, reference) == max(
    answers.word_f1(prediction, line) for line in lines
  )
  assert answers.exact_match(prediction, reference) <= answers.f1(
    prediction, reference
  )


def test_exact_match_promises_zero_or_one():
  assert text_metrics.get_metric('squad_exact_match').zero_one
