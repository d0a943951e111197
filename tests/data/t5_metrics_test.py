"""T5's scores against the libraries, with T5's options, and by hand."""

import pytest
import sacrebleu
from rouge_score import rouge_scorer, scoring

from calm_jax import errors
from calm_jax.data import t5_metrics
from calm_jax.metrics import text_metrics

TARGETS = [
  'The cat sat on the mat . It slept all day .',
  'Rain fell in Spain, mainly on the plain.',
  'Nobody came to the party .',
]
PREDICTIONS = [
  'It slept all day . The cat sat on a mat .',
  'Rain fell mainly in Spain.',
  'Everybody left.',
]


def test_rouge_is_the_mean_that_t5_takes_samples_of():
  scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeLsum'])
  samples = scoring.BootstrapAggregator(n_samples=200)
  for target, prediction in zip(TARGETS * 50, PREDICTIONS * 50, strict=True):
    samples.add_scores(
      scorer.score(
        target.replace(' . ', ' .\n'), prediction.replace(' . ', ' .\n')
      )
    )
  median = samples.aggregate()
  found = t5_metrics.rouge(TARGETS, PREDICTIONS)
  for name, score in found.items():
    assert score == pytest.approx(100 * median[name].mid.fmeasure, abs=2)
  # Two sentences in another order, one word changed: 9 of 10 words. As one
  # line, only the longer sentence of six words would count.
  first = t5_metrics.rouge(TARGETS[:1], PREDICTIONS[:1])
  assert first['rougeLsum'] == pytest.approx(90)
  assert 100 * text_metrics.rouge_l(PREDICTIONS[0], TARGETS[0]) < 61


def test_bleu_is_sacrebleus_with_international_tokens():
  found = t5_metrics.bleu(TARGETS, PREDICTIONS)['bleu']
  scorer = sacrebleu.BLEU(tokenize='intl', smooth_method='exp')
  assert found == pytest.approx(
    scorer.corpus_score(PREDICTIONS, [TARGETS]).score
  )
  assert t5_metrics.bleu(TARGETS, TARGETS)['bleu'] == pytest.approx(100)


def test_squad_takes_the_best_answer_of_each_question():
  targets = [['in 911', '911'], 'the Normans\nNorman people']
  found = t5_metrics.squad(targets, ['911', 'people of Normans'])
  # 'people' or 'Normans': one of 3 and one of 1 or 2 words in common.
  assert found == {'em': 50.0, 'f1': pytest.approx((100 + 50) / 2)}


def test_no_examples_have_no_score():
  for metric in (t5_metrics.rouge, t5_metrics.bleu, t5_metrics.squad):
    with pytest.raises(errors.DataError, match='got 0 and 0'):
      metric([], [])
    with pytest.raises(errors.DataError, match='got 1 and 2'):
      metric(['a'], ['a', 'b'])
