"""The sampler against NumPy, and sampling inside the decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import sampling
from calm_jax.early_exit.measures import (
  classifier_confidence,
  oracle,
  saturation,
  softmax,
  top_k,
)

LOGITS = np.float32([[2.0, 1.0, 0.5, -1.0, 0.0], [0.0, 3.0, 2.9, -2.0, 1.0]])
LENGTH = 5


def _keys(seeds):
  return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def _plain_truncation(logits, temperature, k, p):
  logits = np.float64(logits) / temperature
  order = np.argsort(-logits, kind='stable')
  if k:
    order = order[:k]
  if p:
    probabilities = scipy.special.softmax(logits[order])
    needed = int(np.searchsorted(np.cumsum(probabilities), p)) + 1
    order = order[:needed]
  allowed = np.full(len(logits), -np.inf)
  allowed[order] = logits[order]
  return allowed


@pytest.mark.parametrize(
  'temperature, k, p',
  [(1.0, 0, 0.0), (0.5, 2, 0.0), (2.0, 0, 0.7), (1.0, 3, 0.8), (1.0, 1, 0.0)],
)
def test_truncation_equals_numpy(temperature, k, p):
  sampler = sampling.Sampler(temperature, k, p)
  found = sampler.truncated(jnp.asarray(LOGITS))
  for row, logits in enumerate(LOGITS):
    np.testing.assert_allclose(
      found[row], _plain_truncation(logits, temperature, k, p), rtol=1e-6
    )


def _sorted_top_p(logits, top_p):
  """Top-p by its definition, over a sorted vocabulary."""
  ordered = -np.sort(-np.float64(logits), axis=-1)
  probabilities = scipy.special.softmax(ordered, axis=-1)
  before = np.cumsum(probabilities, axis=-1) - probabilities
  lowest = np.where(before < top_p, ordered, np.inf).min(axis=-1)
  return logits >= lowest[:, None]


# Where ties matter: signed zeros, whole rows of equals, logits so close that
# their probabilities round alike, and candidates that top-k has ruled out.
TIES = np.float32(
  [
    [1.0, 1.0, 0.0, -0.0, 0.0, -1.0, -1.0, 2.0],
    [3.0] * 8,
    [-5.0] * 4 + [-6.0] * 4,
    [0.0, -0.0, 1e-9, -1e-9, 0.0, -50.0, -200.0, 1e-9],
    [0.5, 0.5, -np.inf, -np.inf, -1.0, -1.0, -np.inf, -2.0],
  ]
)


@pytest.mark.parametrize('top_p', [1e-6, 0.1, 0.33, 0.61, 0.9, 0.999])
def test_top_p_keeps_what_a_sort_keeps(top_p):
  rng = np.random.default_rng(0)
  random = rng.normal(size=(40, 301)).astype(np.float32)
  scaled = random * rng.choice([0.01, 1.0, 30.0], (40, 1)).astype(np.float32)
  for logits in (scaled, np.round(random, 1), TIES):
    allowed = np.asarray(sampling.Sampler(top_p=top_p).truncated(logits))
    expected = np.where(_sorted_top_p(logits, top_p), logits, -np.inf)
    np.testing.assert_array_equal(allowed, expected)


def test_equals_of_the_last_kept_token_are_kept():
  logits = jnp.float32([[2.0, 1.0, 1.0, 1.0, 0.0]])
  kept = jnp.float32([[2.0, 1.0, 1.0, 1.0, -np.inf]])
  # By number the second, by probability (0.42 of the first) the third of them.
  for sampler in (sampling.Sampler(top_k=2), sampling.Sampler(top_p=0.5)):
    np.testing.assert_array_equal(sampler.truncated(logits), kept)
  alone = sampling.Sampler(top_p=0.4).truncated(logits)
  assert np.isfinite(alone).tolist() == [[True] + [False] * 4]


def test_draws_follow_the_distribution():
  sampler = sampling.Sampler(temperature=1.5, top_k=4)
  count = 20_000
  index, log_prob = sampler(
    _keys(range(count)), jnp.broadcast_to(LOGITS[0], (count, 5))
  )
  expected = scipy.special.softmax(_plain_truncation(LOGITS[0], 1.5, 4, 0))
  shares = np.bincount(index, minlength=5) / count
  # Five standard deviations of a share.
  assert np.abs(shares - expected).max() < 5 * 0.5 / np.sqrt(count)
  np.testing.assert_allclose(log_prob, np.log(expected[index]), rtol=1e-4)


def test_log_probs_of_the_model_itself():
  sampler = sampling.Sampler(temperature=0.1, rescale_log_probs=False)
  index, log_prob = sampler(_keys([1, 2]), jnp.asarray(LOGITS))
  expected = scipy.special.log_softmax(LOGITS, axis=-1)
  np.testing.assert_allclose(log_prob, expected[[0, 1], index], rtol=1e-5)


def test_log_probs_count_what_cannot_be_drawn():
  sampler = sampling.Sampler(rescale_log_probs=False)
  rest = np.float32([0.3, -1.0])
  index, log_prob = sampler(_keys([1, 2]), jnp.asarray(LOGITS), rest)
  everything = np.concatenate([LOGITS, rest[:, None]], axis=1)
  expected = scipy.special.log_softmax(everything, axis=-1)
  np.testing.assert_allclose(log_prob, expected[[0, 1], index], rtol=1e-5)


@pytest.mark.parametrize(
  'options',
  [
    {'temperature': 1e-5},
    {'temperature': 0.0},
    {'top_k': -1},
    {'top_k': 1.5},
    {'top_p': 1.1},
    {'top_p': float('nan')},
    {'top_p': np.zeros(2)},
    {'temperature': '1'},
  ],
)
def test_impossible_samplers_are_refused(options):
  with pytest.raises(errors.ConfigError):
    sampling.Sampler(**options)


@functools.cache
def _compiled(measure, sampler):
  # Without packs of rows: half of the program to compile.
  model, params = tiny_t5.tiny_model(measure, rows_per_pack=())
  generate = jax.jit(
    functools.partial(
      tiny_t5.generate, model, max_decode_length=LENGTH, decode_fn=sampler
    )
  )
  return lambda *args, **kwargs: jax.device_get(
    generate(params, *args, **kwargs)
  )


GAP = softmax.SoftmaxTopTwoGap()


def test_a_row_depends_on_its_own_seed_only():
  generate = _compiled(GAP, sampling.Sampler())
  sources = tiny_t5.sources(4)
  thresholds, seeds = np.full(4, 0.2, np.float32), np.uint32([7, 8, 7, 9])
  together = generate(sources, thresholds, seeds=seeds)
  again = generate(sources, thresholds, seeds=seeds)
  np.testing.assert_array_equal(together.tokens, again.tokens)
  for row in range(4):
    # Rows of zeros are padding: the row is alone.
    alone = np.where(np.arange(4)[:, None] == row, sources, 0)
    others = np.where(np.arange(4) == row, seeds, 1).astype(np.uint32)
    found = generate(alone, thresholds, seeds=others)
    np.testing.assert_array_equal(found.tokens[row], together.tokens[row])
    np.testing.assert_array_equal(
      found.num_layers_used[row], together.num_layers_used[row]
    )
  other = generate(sources, thresholds, seeds=seeds + np.uint32(100))
  assert (other.tokens != together.tokens).any()


def test_top_1_is_the_greedy_choice():
  sources, thresholds = tiny_t5.sources(4), np.full(4, 0.2, np.float32)
  sampled = _compiled(GAP, sampling.Sampler(top_k=1))(
    sources, thresholds, seeds=np.arange(4, dtype=np.uint32)
  )
  greedy = _compiled(GAP, None)(sources, thresholds)
  np.testing.assert_array_equal(sampled.tokens, greedy.tokens)
  np.testing.assert_array_equal(sampled.num_layers_used, greedy.num_layers_used)


def test_an_early_token_is_drawn_from_its_own_layer():
  # The first token, at threshold 0: from the logits of layer 1.
  model, params = tiny_t5.tiny_model(GAP)
  source = tiny_t5.sources(1)
  count = 4000
  result = _compiled(GAP, sampling.Sampler())(
    np.repeat(source, count, axis=0),
    np.zeros(count, np.float32),
    seeds=np.arange(count, dtype=np.uint32),
  )
  apply = functools.partial(model.module.apply, {'params': params})
  states = apply(
    apply(source, method='encode'),
    source,
    np.zeros((1, 1), np.int32),
    np.ones((1, 1), np.int32),
    method='decode_all_layers',
  )
  logits = apply(states, method='logits_from_hidden')[:, 0, 0]
  shares = np.bincount(result.tokens[:, 0], minlength=24) / count
  first, last = scipy.special.softmax(np.float64(logits), axis=-1)[[0, -1]]
  limit = 5 * 0.5 / np.sqrt(count)
  assert np.abs(shares - first).max() < limit < np.abs(shares - last).max()


def test_top_k_propagation_draws_among_the_k():
  measure = top_k.TopKPropagation(k=3)
  result = _compiled(measure, sampling.Sampler(temperature=20.0))(
    np.repeat(tiny_t5.sources(1), 200, axis=0),
    np.zeros(200, np.float32),
    seeds=np.arange(200, dtype=np.uint32),
  )
  assert len(set(result.tokens[:, 0].tolist())) == 3


def _logits_of_layers(sources):
  """[layers, sources, vocab] of the first token, by the whole decoder."""
  model, params = tiny_t5.tiny_model(GAP)
  apply = functools.partial(model.module.apply, {'params': params})
  states = apply(
    apply(sources, method='encode'),
    sources,
    np.zeros((len(sources), 1), np.int32),
    np.ones((len(sources), 1), np.int32),
    method='decode_all_layers',
  )
  return np.float64(apply(states, method='logits_from_hidden'))[:, :, 0]


def _first_tokens(measure, sampler, source, threshold):
  """Shares of the first token in many draws, and the layers they used."""
  result = _compiled(measure, sampler)(
    source[None],
    np.full((1, COUNT), threshold, np.float32),
    seeds=np.arange(COUNT, dtype=np.uint32)[None],
  )
  shares = np.bincount(result.tokens[:, 0], minlength=24) / COUNT
  return shares, np.unique(result.num_layers_used[:, 0]).tolist()


COUNT = 2000
# Five standard deviations of a share.
LIMIT = 5 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize(
  'measure, layer',
  [
    (saturation.HiddenStateSaturation(rescale=True), 2),
    (
      classifier_confidence.ClassifierConfidence(tiny_t5.CLASSIFIERS[0]),
      1,
    ),
  ],
)
def test_measures_without_a_prediction_draw_from_their_layer(measure, layer):
  # They compute the logits only where the token leaves.
  assert not measure.predicts
  sources = tiny_t5.sources(1)
  shares, used = _first_tokens(measure, sampling.Sampler(2.0), sources[0], 0.0)
  assert used == [layer]
  logits = _logits_of_layers(sources)[:, 0]
  of_layers = scipy.special.softmax(logits / 2.0, axis=-1)
  assert np.abs(shares - of_layers[layer - 1]).max() < LIMIT
  assert np.abs(shares - of_layers[-1]).max() > LIMIT


def test_top_k_propagation_draws_by_the_shares_of_the_k():
  """At layer 2, among the best three of layer 1."""
  sources = tiny_t5.sources(16)
  first, second = _logits_of_layers(sources)[:2]
  kept = np.argsort(-first, axis=-1)[:, :3]
  rest = np.copy(first)
  np.put_along_axis(rest, kept, -np.inf, axis=-1)
  among = np.take_along_axis(second, kept, axis=-1)
  log_rest = scipy.special.logsumexp(rest, axis=-1, keepdims=True)

  def gap(probabilities):
    return np.diff(np.sort(probabilities, axis=-1)[:, -2:], axis=-1)[:, 0]

  gaps = [
    gap(scipy.special.softmax(first, axis=-1)),
    gap(scipy.special.softmax(np.c_[among, log_rest], axis=-1)[:, :3]),
  ]
  # The source for which layer 2 is surer than layer 1 by most.
  row = np.argmax(gaps[1] - gaps[0])
  assert gaps[1][row] > gaps[0][row] + 1e-3
  threshold = (gaps[0][row] + gaps[1][row]) / 2
  shares, used = _first_tokens(
    top_k.TopKPropagation(k=3), sampling.Sampler(2.0), sources[row], threshold
  )
  assert used == [2]
  expected = np.zeros(24)
  expected[kept[row]] = scipy.special.softmax(among[row] / 2.0)
  assert np.abs(shares - expected).max() < LIMIT


def test_the_oracle_cannot_sample():
  model, params = tiny_t5.tiny_model(oracle.Oracle())
  with pytest.raises(errors.ConfigError, match='oracle'):
    tiny_t5.generate(
      model, params, tiny_t5.sources(1), jnp.zeros(1), max_decode_length=3,
      decode_fn=sampling.Sampler(), seeds=jnp.zeros(1, jnp.uint32),
    )  # fmt: skip
