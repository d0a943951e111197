"""Scores of targets, against the log-probabilities of decoding."""

import jax
import numpy as np
import pytest
from testing import tiny_text

from calm_jax import errors
from calm_jax.data import corpus
from calm_jax.inference import scoring

LENGTH = 6
EXAMPLES = [
  corpus.Example('1', 'restore: a word', 'A word.'),
  corpus.Example(
    '2', 'restore: more', ''.join(f'Word {i}. ' for i in range(9))
  ),
]


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator(LENGTH)


def test_a_score_is_the_sum_of_the_targets_log_probabilities(generator):
  with pytest.warns(UserWarning, match='longer than 6 tokens'):
    outputs = scoring.Scorer(generator, LENGTH)(EXAMPLES)
  # The second route: all logits, and more padding.
  rows = [
    generator.tokenizer.encode(x.targets)[: LENGTH - 1] + [1] for x in EXAMPLES
  ]
  targets = np.array([row + [0] * (9 - len(row)) for row in rows])
  logits = jax.jit(generator.model.module.apply)(
    {'params': generator.params},
    generator.encode([x.inputs for x in EXAMPLES]),
    np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    targets,
  )
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  for row, (found,), of_row in zip(rows, outputs, log_probs, strict=True):
    expected = sum(float(of_row[i, x]) for i, x in enumerate(row))
    assert found.log_prob == pytest.approx(expected, abs=1e-4)
    assert found.text == '' and found.num_layers_used == ()


def test_scores_that_are_not_finite_are_refused(generator, monkeypatch):
  scorer = scoring.Scorer(generator, LENGTH)
  monkeypatch.setattr(
    scorer, '_score', lambda params, batch: np.array([0.0, np.nan])
  )
  with pytest.warns(UserWarning), pytest.raises(errors.NumericError):
    scorer(EXAMPLES)
