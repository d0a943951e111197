"""Metric sums of steps, and T5X's metric names for their totals.

A step returns sums, not means, as a dict of arrays; the loop adds them up over
the steps between two log lines, whatever their numbers of tokens, and divides
once at the end.
"""

import numpy as np
from jax import numpy as jnp

from calm_jax.training import losses, state

MetricSums = dict


def training_sums(
  layer_losses: losses.LayerLosses,
  batch: state.Batch,
  learning_rate,
  gradient_norm,
) -> MetricSums:
  """Sums of one training step.

  Args:
    layer_losses: of this step.
    batch: of this step.
    learning_rate: scalar.
    gradient_norm: scalar, before any clipping.

  Returns:
    Scalars, and [num_layers] arrays under `layer_*`.
  """
  return {
    'steps': jnp.float32(1),
    'loss': layer_losses.loss,
    'z_loss': layer_losses.z_loss,
    'learning_rate': learning_rate,
    'gradient_norm': gradient_norm,
    'layer_loss': layer_losses.layer_loss,
    'layer_correct': layer_losses.layer_correct,
    'layer_tokens': layer_losses.layer_tokens,
    'sequences': jnp.float32(batch['decoder_target_tokens'].shape[0]),
    'target_tokens': jnp.sum(
      batch['decoder_target_tokens'] > 0, dtype=jnp.float32
    ),
    'padded_target_tokens': jnp.float32(batch['decoder_target_tokens'].size),
  }


def evaluation_sums(
  layer_loss, layer_correct, layer_agreement, num_tokens
) -> MetricSums:
  """Sums of one evaluation step: [num_layers] arrays and a scalar."""
  return {
    'layer_loss': layer_loss,
    'layer_correct': layer_correct,
    'layer_agreement': layer_agreement,
    'target_tokens': num_tokens,
  }


def add(total: MetricSums | None, sums: MetricSums) -> MetricSums:
  """Adds two dicts of sums in float64 on the host; None counts as zero."""
  sums = {key: np.asarray(value, np.float64) for key, value in sums.items()}
  if total is None:
    return sums
  return {key: total[key] + value for key, value in sums.items()}


def training_metrics(total: MetricSums, seconds: float) -> dict[str, float]:
  """T5X's names for the totals of some training steps.

  `loss` is the objective, per target token; `accuracy` is the last layer's.
  Layers count from 1. A layer that was never read out has no entry.

  Args:
    total: sums over the steps.
    seconds: wall time that they took.

  Returns:
    Name -> number, for the metric writers.
  """
  steps = total['steps']
  values = {
    'loss': total['loss'] / steps,
    'z_loss': total['z_loss'] / steps,
    'cross_ent_loss': (total['loss'] - total['z_loss']) / steps,
    'loss_per_nonpadding_target_token': _ratio(
      total['layer_loss'][-1], total['layer_tokens'][-1]
    ),
    'accuracy': _ratio(total['layer_correct'][-1], total['layer_tokens'][-1]),
    'nonpadding_fraction': (
      total['target_tokens'] / total['padded_target_tokens']
    ),
    'learning_rate': total['learning_rate'] / steps,
    'gradient_norm': total['gradient_norm'] / steps,
    **_per_layer('loss', total['layer_loss'], total['layer_tokens']),
    **_per_layer('accuracy', total['layer_correct'], total['layer_tokens']),
    'timing/steps_per_second': steps / seconds,
    'timing/seqs_per_second': total['sequences'] / seconds,
    'timing/target_tokens_per_second': total['target_tokens'] / seconds,
  }
  return {name: float(value) for name, value in values.items()}


def evaluation_metrics(total: MetricSums) -> dict[str, float]:
  """Means over a validation set: loss, accuracy and agreement of each layer.

  `agreement_per_layer/layer_i` is the fraction of tokens on which layer i
  predicts what the last layer predicts: what early exit can hope to save.
  """
  tokens = np.full_like(total['layer_loss'], total['target_tokens'])
  values = {
    'loss': _ratio(total['layer_loss'][-1], tokens[-1]),
    'accuracy': _ratio(total['layer_correct'][-1], tokens[-1]),
    **_per_layer('loss', total['layer_loss'], tokens),
    **_per_layer('accuracy', total['layer_correct'], tokens),
    **_per_layer('agreement', total['layer_agreement'], tokens),
  }
  return {name: float(value) for name, value in values.items()}


def _ratio(numerator, denominator) -> float:
  return numerator / max(denominator, 1.0)


def _per_layer(name: str, sums, tokens) -> dict[str, float]:
  return {
    f'{name}_per_layer/layer_{layer}': layer_sum / layer_tokens
    for layer, (layer_sum, layer_tokens) in enumerate(
      zip(sums, tokens, strict=True), start=1
    )
    if layer_tokens > 0
  }
