"""The screened first exit; `layer_loop_test` runs it in the decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from testing import plain_measures, tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import clock, confidence, prediction
from calm_jax.early_exit.measures import screening, softmax, top_k
from calm_jax.t5 import network
from calm_jax.t5 import rows as rows_lib


def _states(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def _run(measure, model, params, states):
  """Answers at the first exits, given the states [exits, batch, embed]."""
  module = network.Transformer(model.config)
  prepared = measure.prepare(model.config, params)
  state, answers = None, []
  for number, hidden in enumerate(states):
    view = confidence.LayerView(
      layer=number + 1,
      num_layers=model.config.num_decoder_layers,
      exit_number=number,
      hidden=jnp.asarray(hidden),
      previous_hidden=jnp.asarray(hidden),
      clock=clock.Clock(jnp.int32(0), jnp.zeros(len(hidden), int)),
      rows=rows_lib.Rows.all(len(hidden)),
      kept_states=jnp.asarray(hidden)[:, None],
      is_full_model=jnp.zeros(len(hidden), bool),
      params=params,
      network=functools.partial(module.apply, {'params': params}),
      predict=prediction.predict,
      prepared=prepared,
      token_state=state,
    )
    answers.append(measure(view))
    state = answers[-1].token_state
  return answers


@pytest.mark.parametrize('tied', (False, True))
def test_first_exit_equals_numpy(tied):
  measure = screening.ScreenedTopK(k=3, rank=5, num_candidates=8)
  model, params = tiny_t5.tiny_model(measure, tied=tied)
  hidden = _states(6, model.config.emb_dim)
  (answer,) = _run(measure, model, params, hidden[None])
  logits = np.asarray(
    model.module.apply({'params': params}, hidden, method='logits_from_hidden'),
    np.float64,
  )
  for row, state in enumerate(hidden):
    scores, candidates = plain_measures.screen(measure, state, params)
    assert set(candidates) != set(np.argsort(-logits[row])[:8]), 'no screening'
    order = sorted(candidates, key=lambda x: -logits[row, x])
    assert answer.token_state.ids[row].tolist() == sorted(order[:3])
    assert answer.prediction.token[row] == order[0]
    scores[candidates] = logits[row, candidates]
    probabilities = scipy.special.softmax(scores)
    gap = probabilities[order[0]] - probabilities[order[1]]
    np.testing.assert_allclose(answer.confidence[row], gap, atol=1e-5)
    outside = np.delete(scores, order[:3])
    np.testing.assert_allclose(
      answer.token_state.log_rest[row],
      scipy.special.logsumexp(outside),
      atol=1e-4,
    )


@pytest.mark.parametrize('tied', (False, True))
def test_full_rank_and_all_candidates_are_top_k_propagation(tied):
  exact = top_k.TopKPropagation(k=(5, 3))
  width, vocabulary = 16, tiny_t5.VOCAB_SIZE
  full = screening.ScreenedTopK(k=(5, 3), rank=width, num_candidates=vocabulary)
  model, params = tiny_t5.tiny_model(full, tied=tied)
  states = _states(3, 4, width)
  for ours, theirs in zip(
    _run(full, model, params, states),
    _run(exact, model, params, states),
    strict=True,
  ):
    np.testing.assert_array_equal(ours.token_state.ids, theirs.token_state.ids)
    np.testing.assert_array_equal(
      ours.prediction.token, theirs.prediction.token
    )
    np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-5)


def test_what_the_preview_lacks_is_weighed_in():
  # Gaussian columns and a low rank: without the variance of what is left out,
  # the tokens outside would weigh about exp(-v / 2) of what they should.
  vocabulary, width = 4000, 32
  columns = _states(vocabulary, width, seed=1) * 0.25
  hidden = _states(5, width, seed=2)
  preview = screening.preview_of(jnp.asarray(columns), 8, keep=False)
  score = lambda states, x, method: jnp.einsum('be,bce->bc', states, x)  # noqa: E731
  view = type('View', (), {'hidden': hidden, 'network': staticmethod(score)})
  approximate, lacking = preview.logits(view)
  wanted = scipy.special.logsumexp(hidden @ columns.T, axis=-1)
  without = scipy.special.logsumexp(np.asarray(approximate), axis=-1)
  assert (np.abs(without + lacking - wanted) < 0.15).all()
  assert (without < wanted - 0.5).all()


def test_threshold_one_is_the_full_model_bit_for_bit():
  thresholds = jnp.ones(3)
  results = []
  for measure in (
    screening.ScreenedTopK(k=2, rank=1, num_candidates=2),
    softmax.SoftmaxTopTwoGap(),
  ):
    model, params = tiny_t5.tiny_model(measure)
    generate = jax.jit(
      functools.partial(tiny_t5.generate, model, max_decode_length=6)
    )
    results.append(generate(params, tiny_t5.sources(3), thresholds))
  for ours, full in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_array_equal(ours, full)


def test_what_is_prepared_is_an_argument_of_the_program():
  measure = screening.ScreenedTopK(k=2, rank=4, num_candidates=6)
  model, params = tiny_t5.tiny_model(measure)
  prepared = jax.jit(model.prepare)(params)
  sources, thresholds = tiny_t5.sources(1), jnp.ones(1)

  def program(params, prepared):
    return tiny_t5.generate(
      model, params, sources, thresholds, max_decode_length=2, prepared=prepared
    )

  traced = jax.make_jaxpr(program)(params, prepared)
  assert 'eigh' not in str(traced)
  assert 'eigh' in str(jax.make_jaxpr(program)(params, None))
  shapes = {np.shape(x) for x in traced.consts}
  assert shapes.isdisjoint(x.shape for x in jax.tree.leaves(prepared))


@pytest.mark.parametrize(
  'kwargs, said',
  [
    ({'rank': 0}, 'rank must be at least 1'),
    ({'rank': 2.0}, 'rank must be at least 1'),
    ({'rank': 17}, 'rank must be at most 16'),
    ({'num_candidates': 4}, 'at least K = 5'),
    ({'num_candidates': 25}, 'num_candidates must be at most 24'),
    ({'k': 25, 'num_candidates': 30}, 'at most 24'),
    ({'k': 1}, 'at least 2'),
  ],
)
def test_knobs_out_of_range_are_refused_before_anything_compiles(kwargs, said):
  with pytest.raises(errors.ConfigError, match=said):
    knobs = {'k': 5, 'rank': 4, 'num_candidates': 8} | kwargs
    tiny_t5.tiny_model(screening.ScreenedTopK(**knobs))
