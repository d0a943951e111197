"""Every confidence measure once more, in NumPy, for one token of one row."""

import types

import numpy as np
from testing import tiny_t5

from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  patience,
  saturation,
  screening,
  static,
  top_k,
)
from calm_jax.early_exit.measures import softmax as softmax_measure

MEASURES = (
  softmax_measure.SoftmaxTopTwoGap(),
  softmax_measure.SoftmaxMaximum(),
  softmax_measure.SoftmaxEntropy(),
  saturation.HiddenStateSaturation(),
  saturation.HiddenStateSaturation(rescale=True),
  patience.Patience(),
  static.StaticExit(),
  top_k.TopKPropagation(k=5),
  top_k.TopKPropagation(k=(9, 5, 2)),
  top_k.TopKPropagation(k=5, renormalize=True),
  top_k.TopKPropagation(k=5, taken_at=2),
  top_k.TopKPropagation(k=5, last_layer_from_k=True),
  top_k.TopKPropagation(k=24),
  screening.ScreenedTopK(k=3, rank=6, num_candidates=7),
  screening.ScreenedTopK(
    k=(6, 2), taken_at=2, last_layer_from_k=True, rank=10, num_candidates=6
  ),
  *map(classifier_confidence.ClassifierConfidence, tiny_t5.CLASSIFIERS),
)


def answer(measure, states, at_exits, num_layers, threshold, earlier, params):
  """Confidence, token and log-probability at the newest exit of a token.

  Args:
    measure: one of `MEASURES`.
    states: the token's states so far, the embedding first.
    at_exits: logits [vocab] of the exits so far, the newest last.
    num_layers: of the decoder.
    threshold: of the row.
    earlier: [positions, embed], what stands above this layer at the positions
      before: states, or those in which tokens left.
    params: of the network, classifiers included.
  """
  layer = len(states) - 1
  probabilities = softmax(at_exits[-1])
  token = int(np.argmax(probabilities))
  match type(measure).__name__:
    case 'SoftmaxTopTwoGap':
      value = gap(probabilities)
    case 'SoftmaxMaximum':
      value = probabilities.max()
    case 'SoftmaxEntropy':
      entropy = -np.sum(probabilities * np.log(probabilities))
      value = 1 - entropy / np.log(len(probabilities))
    case 'HiddenStateSaturation':
      a, b = np.float64(states[-1]), np.float64(states[-2])
      value = a @ b / np.sqrt((a @ a) * (b @ b))
      value = (1 + value) / 2 if measure.rescale else value
    case 'Patience':
      best = [int(np.argmax(logits)) for logits in at_exits]
      others = [i for i, x in enumerate(reversed(best)) if x != best[-1]]
      count = (others or [len(best)])[0] - 1
      count *= not (layer == num_layers and threshold >= 1)
      value = np.float32(count) / np.float32(num_layers - 1)
    case 'StaticExit':
      value = np.float32(layer) / np.float32(num_layers)
    case 'ClassifierConfidence':
      sequence = np.concatenate([earlier, states[-1][None]])
      value = _classified(measure, sequence, layer, num_layers, params)
    case 'TopKPropagation':
      return _top_k(measure, layer, at_exits, num_layers, threshold)
    case 'ScreenedTopK':
      first = states[min(layer, measure.taken_at or 1)]
      screened = screen(measure, first, params)
      return _top_k(measure, layer, at_exits, num_layers, threshold, screened)
  return _answer(value, token, np.log(probabilities[token]))


def _classified(measure, sequence, layer, num_layers, params):
  """The whole-sequence route, teacher-forced on the same states."""
  if layer == num_layers:
    return 1.0
  kind = measure.classifier
  logits = kind.module(num_layers).apply(
    {'params': params[classifiers.PARAMS][kind.name]}, sequence[None], layer
  )
  return 1 / (1 + np.exp(-np.float64(logits[0, -1])))


def softmax(logits):
  exponentials = np.exp(logits - logits.max())
  return exponentials / exponentials.sum()


def gap(probabilities):
  ordered = np.sort(probabilities)
  return ordered[-1] - ordered[-2]


def _answer(value, token, log_prob):
  return types.SimpleNamespace(
    confidence=float(value), token=token, log_prob=float(log_prob)
  )


def screen(measure, hidden, params):
  """Scores [vocab] by the first singular vectors, and the candidates' ids.

  What the scores lack counts in the log-sum-exp of those that are left out:
  half its variance over the vocabulary, that of a normal error.
  """
  hidden = np.float64(hidden)
  normed = hidden / np.sqrt(np.mean(hidden**2) + 1e-6)
  normed = normed * np.float64(params['decoder']['decoder_norm']['scale'])
  if 'logits_dense' in params['decoder']:
    kernel = np.float64(params['decoder']['logits_dense']['kernel'])
  else:
    kernel = np.float64(params['token_embedder']['embedding']).T
    kernel = kernel / np.sqrt(len(kernel))
  left, singular, right = np.linalg.svd(kernel, full_matrices=False)
  singular[measure.rank :] = 0.0
  scores = normed @ (left * singular) @ right
  lacking = normed @ kernel - scores
  order = np.argsort(-scores, kind='stable')
  return (
    scores + np.mean(lacking**2) / 2,
    np.sort(order[: measure.num_candidates]),
  )


def _top_k(measure, layer, at_exits, num_layers, threshold, screened=None):
  """Scores of all tokens, each as it was last scored; pruned from exit to exit.

  Every layer is an exit in the tests that come here.
  """
  ks = measure.k
  taken_at = measure.taken_at or 1
  last_from_vocabulary = layer == num_layers and (
    threshold >= 1 or not measure.last_layer_from_k
  )
  scores_all = screened is None and (
    layer < taken_at or ks[0] == len(at_exits[-1])
  )
  if scores_all or last_from_vocabulary:
    probabilities = softmax(at_exits[-1])
    best = int(np.argmax(probabilities))
    return _answer(gap(probabilities), best, np.log(probabilities[best]))
  kept = np.arange(len(at_exits[-1]))
  scores = np.full(len(kept), np.nan)
  if screened is not None:
    scores, kept = screened
  for number, logits in enumerate(at_exits[min(layer, taken_at) - 1 :]):
    scores[kept] = logits[kept]
    if layer < taken_at:
      break
    k = ks[min(number, len(ks) - 1)]
    kept = kept[np.argsort(-logits[kept], kind='stable')[:k]]
  if measure.renormalize:
    probabilities = np.zeros(len(scores))
    probabilities[kept] = softmax(scores[kept])
  else:
    probabilities = softmax(scores)
  inside = probabilities[kept]
  best = int(kept[np.argmax(inside)])
  return _answer(gap(inside), best, np.log(probabilities[best]))
