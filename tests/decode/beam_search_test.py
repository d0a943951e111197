"""Beam search against enumeration of all sequences, and against greedy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import tiny_t5

from calm_jax import errors
from calm_jax.decode import beam_search
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.measures import softmax

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


def _search(table, num_beams, alpha, row_lengths=None, prompts=None):
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
    prompts=prompts,
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
        score += logits[token] - scipy.special.logsumexp(logits)
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


def test_beams_without_a_sequence_say_so():
  # Only one sequence fits in one token: EOS. Three of four beams are dead.
  tokens, scores = _search(_table(1), 4, 0.6, jnp.array([1, 1]))
  assert (np.asarray(scores)[:, :3] == -np.inf).all()
  assert np.isfinite(scores[:, 3]).all()
  np.testing.assert_array_equal(tokens[0], [[0] * LENGTH] * 3 + [[EOS, 0, 0]])


def test_dead_beams_lose_against_the_most_improbable_sequence():
  # Its log-probability is below -1e7, where T5X's dead beams are.
  table = {prefix: values * 1e8 for prefix, values in _table(2).items()}
  tokens, scores = _search(table, 20, 0.0)
  # Scores of a float32 lose their order among equals: compare them as a set.
  found = {tuple(x) for x in np.asarray(tokens[0]).tolist()} - {(0,) * LENGTH}
  assert found == {x for _, x in _enumerated(table, 0.0)}
  scores = np.asarray(scores[0])
  dead = scores == -np.inf
  assert scores[~dead].min() < -1e7
  assert dead.sum() == 20 - len(found)
  assert (np.diff(scores[~dead]) >= 0).all() and not dead[-1]


def test_sequences_start_with_their_prompt():
  table = _table(4)
  prompts = jnp.array([[2, 0], [3, 2]])
  tokens, scores = _search(table, 20, 0.6, prompts=prompts)
  for row, prompt in enumerate([(2,), (3, 2)]):
    size = len(prompt)
    certain = {
      prefix: np.where(np.arange(VOCAB) == prompt[len(prefix)], 0, -np.inf)
      if len(prefix) < size
      else values
      for prefix, values in table.items()
    }
    expected = [x for x in _enumerated(certain, 0.6) if x[0] > -np.inf]
    found = np.asarray(tokens[row])[::-1]
    alive = int(np.isfinite(scores[row]).sum())
    assert alive == len(expected) and (found[:alive, :size] == prompt).all()
    np.testing.assert_array_equal(found[:alive], [x for _, x in expected])
    np.testing.assert_allclose(
      scores[row, ::-1][:alive], [s for s, _ in expected], rtol=1e-5
    )


@pytest.mark.parametrize('alpha', [-0.1, float('inf'), float('nan'), 1e3])
def test_length_penalties_that_do_not_ascend_are_refused(alpha):
  with pytest.raises(errors.ConfigError, match='alpha'):
    _search(_table(0), 2, alpha)


def test_no_beams_are_refused():
  with pytest.raises(errors.ConfigError, match='at least 1'):
    _search(_table(0), 0, 0.6)


@pytest.fixture(scope='module')
def model_and_params():
  return tiny_t5.tiny_model(softmax.SoftmaxTopTwoGap())


def _random_params(like, seed):
  """Normal weights, half to twice as large as those of `like`."""
  rng = np.random.default_rng(seed)
  scale = rng.choice([0.5, 1.0, 2.0])

  def drawn(weights):
    size = scale * np.sqrt(np.mean(np.square(weights)))
    return np.float32(size * rng.normal(size=weights.shape))

  return jax.tree.map(drawn, like)


def test_one_beam_is_greedy_decoding(model_and_params):
  # Whatever the weights, for any length penalty, and any token as EOS.
  model, like = model_and_params
  greedy = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=6)
  )
  beams = jax.jit(
    functools.partial(tiny_t5.search, model, num_beams=1, max_decode_length=6)
  )
  eos_id, num_ended, num_cut = EOS, 0, 0
  for seed in range(8):
    params, sources = _random_params(like, seed), tiny_t5.sources(8, seed=seed)
    expected = greedy(params, sources, jnp.ones(8), eos_id=eos_id)
    lengths = np.sum(np.asarray(expected.num_layers_used) > 0, axis=1)
    for alpha in (0.0, 0.6):
      tokens, scores = beams(params, sources, alpha=alpha, eos_id=eos_id)
      np.testing.assert_array_equal(tokens[:, 0], expected.tokens)
      np.testing.assert_allclose(
        scores[:, 0],
        expected.log_probs / ((5 + lengths) / 6) ** alpha,
        rtol=1e-4,
        atol=1e-5,
      )
    num_ended += np.sum(lengths < 6)
    num_cut += np.sum(lengths == 6)
    eos_id = 1 + (eos_id + int(expected.tokens[0, 3])) % 23
  assert num_ended > 0 and num_cut > 0  # Both ways of ending were compared.


def test_beams_score_what_the_model_scores(model_and_params):
  # The reordered caches give the log-likelihood of the whole sequences.
  model, params = model_and_params
  sources = tiny_t5.sources(8)
  tokens, scores = jax.jit(
    functools.partial(
      tiny_t5.search, model, num_beams=4, alpha=0.0, max_decode_length=6
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
  assert request_lib.EOS_ID == EOS
