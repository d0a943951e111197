"""The metrics against short implementations written from their definitions."""

import collections
import string

import hypothesis
import pytest
from hypothesis import strategies as st

from calm_jax import errors, text_metrics

# Few letters, so that texts share n-grams and words often.
TEXTS = st.text(alphabet='aAb c.?', max_size=24)
NAMES = sorted(text_metrics.METRICS)


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
def test_empty_texts(name):
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
