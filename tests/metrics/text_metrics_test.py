"""The metrics against short implementations written from their definitions."""

import collections
import functools
import random
import string

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from calm_jax import errors
from calm_jax.evaluation import bleurt
from calm_jax.metrics import text_metrics

# Few letters, so that texts share n-grams and words often.
TEXTS = st.text(alphabet='aAb c.?', max_size=24)
NAMES = sorted(text_metrics.METRICS)

MODULE = 'tests.metrics.text_metrics_test'


def _chrf_by_definition(prediction, reference):
  """F2 of the mean precision and mean recall of character 1- to 6-grams."""

  def ngrams(text, order):
    text = ''.join(text.split())
    return collections.Counter(
      text[i : i + order] for i in range(len(text) - order + 1)
    )

  precisions, recalls = [], []
  for order in range(1, 7):
    predicted, expected = ngrams(prediction, order), ngrams(reference, order)
    if predicted and expected:
      matches = (predicted & expected).total()
      precisions.append(matches / predicted.total())
      recalls.append(matches / expected.total())
  if not precisions:
    return 0.0
  p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
  return 5 * p * r / (4 * p + r) if p + r else 0.0


def _rouge_l_by_definition(prediction, reference):
  def words(text):
    kept = string.ascii_lowercase + string.digits
    return ''.join(c if c in kept else ' ' for c in text.lower()).split()

  a, b = words(prediction), words(reference)
  row = [0] * (len(b) + 1)
  for word in a:
    previous = row[:]
    for j, other in enumerate(b):
      row[j + 1] = (
        previous[j] + 1 if word == other else max(previous[j + 1], row[j])
      )
  return 2 * row[-1] / (len(a) + len(b)) if row[-1] else 0.0


@pytest.mark.parametrize(
  ('name', 'definition'),
  [('chrf', _chrf_by_definition), ('rouge_l', _rouge_l_by_definition)],
)
@hypothesis.given(prediction=TEXTS, reference=TEXTS)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_agrees_with_the_definition(name, definition, prediction, reference):
  prediction, reference = prediction.strip(), reference.strip()
  hypothesis.assume(prediction and reference and prediction != reference)
  assert text_metrics.METRICS[name](prediction, reference) == pytest.approx(
    definition(prediction, reference), abs=1e-12
  )


def _bleu_by_definition(prediction, reference):
  """Exponentially smoothed, up to the order that the text is long enough for.

  For texts of plain words only, which no tokenizer would split.
  """
  a, b = prediction.split(), reference.split()
  product, halves, order = 1.0, 1.0, 0
  for n in range(1, 5):
    bags = [
      collections.Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1))
      for x in (a, b)
    ]
    if not bags[0]:
      break
    order, matches = n, (bags[0] & bags[1]).total()
    if n == 1 and not matches:
      return 0.0
    if not matches:
      halves *= 2
    product *= (matches or 1 / halves) / bags[0].total()
  brevity = min(1.0, np.exp(1 - len(b) / len(a)))
  return brevity * product ** (1 / order)


@hypothesis.given(
  prediction=st.text(alphabet='abc ', max_size=20),
  reference=st.text(alphabet='abc ', max_size=20),
)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
def test_sentence_bleu_agrees_with_the_definition(prediction, reference):
  prediction, reference = prediction.strip(), reference.strip()
  hypothesis.assume(prediction and reference and prediction != reference)
  assert text_metrics.sentence_bleu(prediction, reference) == pytest.approx(
    min(1.0, _bleu_by_definition(prediction, reference)), abs=1e-12
  )


# All that makes texts difficult: letters beyond ASCII, beyond 16 bits, that
# change when lowered, white space of several kinds, repetition.
LETTERS = 'aAbBcd.,?! \n\t\u3000éßİ漢字😀019'
RANDOM_TEXTS = st.text(alphabet=LETTERS, max_size=40)
# Sentences that differ in a few places, as outputs at two thresholds do.
SENTENCES = st.tuples(
  st.lists(st.sampled_from('the cat sat on a mat today'.split()), max_size=30),
  st.integers(0, 10**6),
)


def _sentence(drawn):
  words, seed = drawn
  letters = list(' '.join(words))
  generator = random.Random(seed)
  for _ in range(generator.randrange(4) if letters else 0):
    letters[generator.randrange(len(letters))] = generator.choice('xyz ')
  return ''.join(letters)


ANY_TEXT = RANDOM_TEXTS | SENTENCES.map(_sentence)


@hypothesis.given(prediction=ANY_TEXT, reference=ANY_TEXT)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=500)
def test_rouge_is_rouge_scores(prediction, reference):
  types = {'rouge_1': 'rouge1', 'rouge_2': 'rouge2', 'rouge_l': 'rougeL'}
  scores = rouge_scorer.RougeScorer(list(types.values()), use_stemmer=False)
  expected = scores.score(reference, prediction)
  if prediction.strip() != reference.strip() and prediction.strip():
    for ours, theirs in types.items():
      if reference.strip():
        assert text_metrics.METRICS[ours](prediction, reference) == (
          pytest.approx(expected[theirs].fmeasure, abs=0)
        )


@pytest.mark.parametrize('name', NAMES)
@hypothesis.given(prediction=st.text(max_size=12), reference=st.text())
@hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
def test_is_between_0_and_1_and_1_for_a_text_against_itself(
  name, prediction, reference
):
  metric = text_metrics.METRICS[name]
  assert 0.0 <= metric(prediction, reference) <= 1.0
  assert metric(reference, reference) == 1.0


@pytest.mark.parametrize('name', NAMES)
def test_fault_47_empty_texts(name):
  metric = text_metrics.METRICS[name]
  assert metric('', '') == metric(' \n', '') == 1.0
  assert metric('', 'some words') == metric('some words', ' ') == 0.0


def test_chrf_and_exact_match_see_case_and_punctuation():
  for metric in (text_metrics.chrf, text_metrics.exact_match):
    assert metric('Returns the size.', 'returns the size') < 1.0
  assert text_metrics.rouge_l('Returns the size.', 'returns the size') == 1.0


@pytest.mark.parametrize(
  ('prediction', 'reference', 'expected'),
  [
    ('The Norman dynasty', 'norman dynasty!', 1.0),
    ('in the 10th century', '10th century', 0.8),
    ('a cat', 'the dog', 0.0),
    ('to be or not to be', 'be', 2 / 7),
    ('the', 'a', 1.0),  # nothing is left of either
    ('the', 'cat', 0.0),
  ],
)
def test_token_f1(prediction, reference, expected):
  assert text_metrics.token_f1(prediction, reference) == pytest.approx(expected)


def test_an_unknown_metric_names_the_nearest():
  with pytest.raises(errors.ConfigError, match="Did you mean 'rouge_l'"):
    text_metrics.get_metric('rougeL')
  assert text_metrics.get_metric('chrf') is text_metrics.chrf
  with pytest.raises(errors.ConfigError, match='package.module:function'):
    text_metrics.get_metric(f'{MODULE}:own')


def own(prediction, reference):
  return 0.5


def three(prediction, reference, more):
  return 0.5


class Own:
  def __call__(self, prediction, reference='x', *, scale=1.0):
    return 0.25


INSTANCE = Own()


def test_a_function_of_the_users_own():
  metric = text_metrics.get_or_import_metric(f'{MODULE}:own')
  assert metric('a', 'b') == 0.5
  metric = text_metrics.get_or_import_metric(f'{MODULE}:INSTANCE')
  assert metric('a', 'b') == 0.25
  # Names of ours are names.
  assert text_metrics.get_or_import_metric('chrf') is text_metrics.chrf
  with pytest.raises(errors.ConfigError, match="Did you mean 'chrf'"):
    text_metrics.get_or_import_metric('chrff')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('no_such_package:own', "No module named 'no_such_package'.*PYTHONPATH"),
    # Nothing is imported for other text: see cli.gin_imports.
    *(
      (name, 'is named package.module:function')
      for name in (':own', 'json:', 'json:a:b', 'json://x', 'a-b:own', ' j:own')
    ),
    (
      f'{MODULE}:ovn',
      "none called 'ovn'. Did you mean 'own'",
    ),
    (f'{MODULE}:TEXTS', 'must name a function'),
    (
      f'{MODULE}:three',
      "missing a required argument: 'more'",
    ),
  ],
)
def test_a_function_that_is_none(name, message):
  with pytest.raises(errors.ConfigError, match=message):
    text_metrics.get_or_import_metric(name)


def test_a_module_that_fails(tmp_path, monkeypatch):
  (tmp_path / 'broken_metric.py').write_text('raise RuntimeError("no luck")')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(errors.ConfigError, match='RuntimeError: no luck'):
    text_metrics.get_or_import_metric('broken_metric:own')


def test_what_metrics_promise_survives_a_cache():
  assert functools.cache(text_metrics.exact_match).zero_one
  assert functools.cache(bleurt.score).many is bleurt.score.many
