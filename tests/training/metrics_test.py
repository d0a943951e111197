"""Totals over steps, and their names."""

import numpy as np
import pytest

from calm_jax.training import metrics


def one_step(loss, tokens, layer_tokens, learning_rate=0.5):
  layer_tokens = np.array(layer_tokens, float)
  return {
    'steps': 1.0,
    'loss': loss,
    'z_loss': 0.25,
    'learning_rate': learning_rate,
    'gradient_norm': 2.0,
    'layer_loss': 3.0 * layer_tokens,
    'layer_correct': 0.5 * layer_tokens,
    'layer_tokens': layer_tokens,
    'sequences': 4.0,
    'target_tokens': tokens,
    'padded_target_tokens': 20.0,
  }


def test_training_metrics_average_over_steps_and_tokens():
  total = metrics.add(None, one_step(1.0, 10.0, [10, 0, 10], 0.1))
  total = metrics.add(total, one_step(3.0, 15.0, [15, 0, 15], 0.3))
  values = metrics.training_metrics(total, seconds=5.0)
  assert values == pytest.approx(
    {
      'loss': 2.0,
      'z_loss': 0.25,
      'cross_ent_loss': 1.75,
      'loss_per_nonpadding_target_token': 3.0,
      'accuracy': 0.5,
      'nonpadding_fraction': 0.625,
      'learning_rate': 0.2,
      'gradient_norm': 2.0,
      'loss_per_layer/layer_1': 3.0,
      'loss_per_layer/layer_3': 3.0,
      'accuracy_per_layer/layer_1': 0.5,
      'accuracy_per_layer/layer_3': 0.5,
      'timing/steps_per_second': 0.4,
      'timing/seqs_per_second': 1.6,
      'timing/target_tokens_per_second': 5.0,
    }
  )


def test_evaluation_metrics_weigh_tokens_not_batches():
  few = metrics.evaluation_sums([8.0, 4.0], [1.0, 2.0], [1.0, 2.0], 2.0)
  many = metrics.evaluation_sums([12.0, 6.0], [1.0, 4.0], [5.0, 8.0], 8.0)
  values = metrics.evaluation_metrics(metrics.add(metrics.add(None, few), many))
  assert values == pytest.approx(
    {
      'loss': 1.0,
      'accuracy': 0.6,
      'loss_per_layer/layer_1': 2.0,
      'loss_per_layer/layer_2': 1.0,
      'accuracy_per_layer/layer_1': 0.2,
      'accuracy_per_layer/layer_2': 0.6,
      'agreement_per_layer/layer_1': 0.6,
      'agreement_per_layer/layer_2': 1.0,
    }
  )
