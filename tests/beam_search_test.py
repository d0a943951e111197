"""Beam search against enumeration of all sequences, and against greedy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import beam_search, models
from calm_jax.early_exit import confidence

EOS = 1
VOCAB, LENGTH = 4, 3


def _table(seed):
  """Random logits of the next token after every prefix of a tiny language."""
  rng = np.random.default_rng(seed)
  return {
    prefix: rng.normal(size=VOCAB).astype(np.float32) * 2
    for n in range(LENGTH)
    for prefix in itertools.product(range(VOCAB), repeat=n)
  }


def _search(table, num_beams, alpha, row_lengths=None):
  """Two sources; the cache holds each row's prefix as a number."""
  logits = np.full((LENGTH, VOCAB**LENGTH, VOCAB), 0.0, np.float32)
  for prefix, values in table.items():
    code = sum(x * VOCAB**i for i, x in enumerate(prefix))
    logits[len(prefix), code] = values

  def step(previous, position, cache):
    added = previous * VOCAB ** jnp.maximum(position - 1, 0)
    code = cache['code'] + jnp.where(position > 0, added, 0)
    return jnp.asarray(logits)[position, code], {'code': code}

  cache = {'code': jnp.zeros(2 * num_beams, jnp.int32)}
  return beam_search.beam_decode(
    step,
    cache,
    batch_size=2,
    num_beams=num_beams,
    max_decode_length=LENGTH,
    eos_id=EOS,
    alpha=alpha,
    row_lengths=row_lengths,
  )


def _enumerated(table, alpha):
  """(score, tokens) of all sequences that end, best first."""
  found = []
  for n in range(1, LENGTH + 1):
    for tokens in itertools.product(range(VOCAB), repeat=n):
      if tokens[-1] != EOS or EOS in tokens[:-1]:
        continue
      score = 0.0
      for i, token in enumerate(tokens):
        logits = np.float64(table[tokens[:i]])
        score += logits[token] - np.log(np.exp(logits).sum())
      penalty = ((5 + n) / 6) ** alpha
      found.append((score / penalty, (*tokens, *(0,) * (LENGTH - n))))
  return sorted(found, reverse=True)


@pytest.mark.parametrize('alpha', [0.0, 0.6])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_wide_beams_find_the_best_of_all_sequences(seed, alpha):
  table = _table(seed)
  expected = _enumerated(table, alpha)[:12]
  # All continuations of all beams are among the 2 * 20 candidates of a step.
  tokens, scores = _search(table, 20, alpha)
  for row in range(2):
    found = np.asarray(tokens[row])[::-1][: len(expected)]
    np.testing.assert_array_equal(found, [x for _, x in expected])
    np.testing.assert_allclose(
      np.asarray(scores[row])[::-1][: len(expected)],
      [x for x, _ in expected],
      rtol=1e-5,
    )


def test_scores_ascend_and_are_those_of_the_sequences():
  table = _table(5)
  tokens, scores = _search(table, 3, 0.6)
  known = dict((x, s) for s, x in _enumerated(table, 0.6))
  assert (np.diff(scores[0]) >= 0).all()
  for sequence, score in zip(
    tokens[0].tolist(), scores[0].tolist(), strict=True
  ):
    np.testing.assert_allclose(score, known[tuple(sequence)], rtol=1e-5)


def test_sources_end_at_their_own_length():
  table = _table(1)
  expected = _enumerated(table, 0.6)
  tokens, scores = _search(table, 20, 0.6, jnp.array([2, 4]))
  short = [(s, x) for s, x in expected if x[2] == 0][:4]
  np.testing.assert_array_equal(tokens[0, ::-1][:4], [x for _, x in short])
  np.testing.assert_allclose(
    scores[0, ::-1][:4], [s for s, _ in short], rtol=1e-5
  )
  np.testing.assert_array_equal(tokens[1, -1], expected[0][1])


@pytest.fixture(scope='module')
def model_and_params():
  return tiny_t5.tiny_model(confidence.SoftmaxTopTwoGap())


def test_one_beam_is_greedy_decoding(model_and_params):
  model, params = model_and_params
  sources = tiny_t5.sources(3)
  options = {'max_decode_length': 6}
  greedy = jax.jit(functools.partial(model.generate, **options))(
    params, sources, jnp.ones(3)
  )
  tokens, scores = jax.jit(
    functools.partial(model.beam_search, num_beams=1, alpha=0.0, **options)
  )(params, sources)
  np.testing.assert_array_equal(tokens[:, 0], greedy.tokens)
  np.testing.assert_allclose(scores[:, 0], greedy.log_probs, rtol=1e-4)


def test_beams_score_what_the_model_scores(model_and_params):
  # The reordered caches give the log-likelihood of the whole sequences.
  model, params = model_and_params
  sources = tiny_t5.sources(8)
  tokens, scores = jax.jit(
    functools.partial(
      model.beam_search, num_beams=4, alpha=0.0, max_decode_length=6
    )
  )(params, sources)
  compared = 0
  for beam in range(4):
    targets = np.asarray(tokens[:, beam])
    # A row is scored without the token 0, which stands for padding.
    whole = [0 not in x[: (*x, 1).index(1)] for x in targets.tolist()]
    compared += sum(whole)
    batch = {
      'encoder_input_tokens': sources,
      'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
      'decoder_target_tokens': targets,
    }
    expected = model.score_batch(params, batch)
    np.testing.assert_allclose(
      np.asarray(scores)[whole, beam], np.asarray(expected)[whole], rtol=1e-4
    )
  assert compared >= 3, 'choose other sources'
  assert len({tuple(x) for x in tokens[0].tolist()}) == 4
  assert models.EOS_ID == EOS
