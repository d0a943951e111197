"""The plug-in for BLEURT, with a made-up BLEURT in its place."""

import sys
import types

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.calibration import risks
from calm_jax.evaluation import bleurt
from calm_jax.metrics import text_metrics


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
  bleurt._scorer.cache_clear()
  monkeypatch.setenv('BLEURT_CHECKPOINT', 'BLEURT-20')
  yield
  bleurt._scorer.cache_clear()


def test_scores_are_cut_to_the_unit_interval(monkeypatch):
  class BleurtScorer:
    def __init__(self, checkpoint):
      assert checkpoint == 'BLEURT-20'

    def score(self, *, references, candidates):
      assert references == ['abcd'] * len(candidates)
      return [
        0.97 if text == 'abcd' else len(text) - 1.5 for text in candidates
      ]

  made_up = types.ModuleType('bleurt')
  made_up.score = types.SimpleNamespace(BleurtScorer=BleurtScorer)
  monkeypatch.setitem(sys.modules, 'bleurt', made_up)
  metric = text_metrics.get_or_import_metric('calm_jax.evaluation.bleurt:score')
  assert metric('ab', 'abcd') == 0.5
  assert metric.many(['a', 'ab', 'abc'], 'abcd') == [0.0, 0.5, 1.0]
  assert metric('abcd', 'abcd') == 1.0


def test_what_is_missing_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, 'bleurt', None)
  with pytest.raises(errors.ConfigError, match='pip install git'):
    bleurt.score('a', 'b')
  monkeypatch.delenv('BLEURT_CHECKPOINT')
  with pytest.raises(errors.ConfigError, match='set BLEURT_CHECKPOINT'):
    bleurt.score('a', 'b')
  # Through the losses too: it is the setting that is wrong, not the data.
  with pytest.raises(errors.ConfigError, match='^BLEURT requires a checkpoint'):
    risks.score(bleurt.score, np.array([['a', 'b']]), np.array(['c']))
