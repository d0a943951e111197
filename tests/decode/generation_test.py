"""Text in, text out, with a tiny network and the shipped vocabulary."""

import jax.numpy as jnp
import numpy as np
import pytest
from testing.tiny_text import make_generator

from calm_jax import errors
from calm_jax.decode import generation, lengths
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.engine import confidence, sampling
from calm_jax.t5 import network

TEXTS = ['restore: this works', 'restore: does it', 'restore: yes']


@pytest.fixture(scope='module')
def generator():
  return make_generator()


def test_pieces_layers_and_text_belong_together(generator):
  results = generator.generate(TEXTS, threshold=1.0)
  tokens = generator.generate_tokens(generator.request(generator.encode(TEXTS)))
  for row, result in enumerate(results):
    ids = [x for x in tokens.tokens[row] if x > 1]
    assert result.text == generator.tokenizer.decode(ids)
    assert result.pieces == generator.tokenizer.pieces(ids)
    assert result.num_layers_used == (3,) * len(ids)
    assert len(result.confidences) == len(ids)
    assert result.log_prob == tokens.log_probs[row] < 0


def test_threshold_zero_uses_the_first_layer(generator):
  for result in generator.generate(TEXTS, threshold=0.0):
    assert set(result.num_layers_used) == {1}


def test_no_texts_give_no_generations(generator):
  sampler = sampling.Sampler()
  assert generator.generate([]) == []
  assert generator.generate([], prompts=[]) == []
  assert generator.generate_many([], 2, sampler=sampler) == []
  assert generator.generate_many([], 2, sampler=sampler, batch_size=3) == []
  assert generator.beam_search([], 2) == []
  assert generator.beam_search([], 2, prompts=[]) == []
  generator.run_encoder(generator.encode([]))


def test_no_texts_have_no_prompts(generator):
  with pytest.raises(errors.ConfigError, match='each of the 0 texts, got 1'):
    generator.generate([], prompts=['This'])


@pytest.mark.parametrize('threshold', [-0.1, 1.1, float('nan')])
def test_refuses_thresholds_outside_the_unit_interval(generator, threshold):
  with pytest.raises(errors.ConfigError, match=r'in \[0, 1\]'):
    generator.generate(TEXTS, threshold=threshold)


def test_refuses_a_vocabulary_that_is_too_large(generator):
  config = generator.model.config.replace(vocab_size=100)
  # Packs would double the programs; `packing_test` tests them.
  model = model_lib.EncoderDecoderModel(
    network.Transformer(config), rows_per_pack=()
  )
  with pytest.raises(errors.DataError, match='only 100 rows'):
    generation.TextGenerator(model, generator.params, generator.tokenizer)


def test_a_texts_draws_depend_on_the_seed_only(generator):
  sampler = sampling.Sampler(temperature=1.5)
  options = {'threshold': 0.2, 'sampler': sampler}
  together = generator.generate_many(TEXTS, 3, seed=5, **options)
  again = generator.generate_many(TEXTS[::-1], 3, seed=5, **options)
  other = generator.generate_many(TEXTS, 3, seed=6, **options)
  assert [len(x) for x in together] == [3, 3, 3]
  for first, second in zip(together, again[::-1], strict=True):
    assert [x.pieces for x in first] == [x.pieces for x in second]
  assert [x[0].pieces for x in other] != [x[0].pieces for x in together]
  for decodes in together:
    scores = [x.log_prob for x in decodes]
    assert scores == sorted(scores, reverse=True)
    assert len({x.pieces for x in decodes}) > 1


def test_outputs_begin_with_their_prompt(generator):
  (result, free) = generator.generate(
    TEXTS[:2], threshold=0.3, prompts=['This', '']
  )
  prompt = generator.tokenizer.encode('This')
  assert result.pieces[: len(prompt)] == generator.tokenizer.pieces(prompt)
  assert result.num_layers_used[: len(prompt)] == (0,) * len(prompt)
  assert all(used > 0 for used in free.num_layers_used)


def test_beam_search_gives_the_best_first(generator):
  (found,) = generator.beam_search(TEXTS[:1], 2, prompts=['This'])
  assert len(found) == 2 and found[0].log_prob >= found[1].log_prob
  size = len(generator.tokenizer.encode('This'))
  for beam in found:
    assert ''.join(beam.pieces).startswith('▁This')
    assert set(beam.num_layers_used[:size]) == {0}
    assert set(beam.num_layers_used[size:]) == {3}


def test_alpha_divides_scores_by_the_length_penalty(generator):
  options = {'eos_id': 2, 'max_decode_length': 5}
  (plain,), (penal,) = (
    generator.beam_search(TEXTS[:1], 1, alpha=alpha, **options)
    for alpha in (0.0, 2.0)
  )
  assert plain[0].pieces == penal[0].pieces
  # Random weights never say <unk>: all five tokens are used.
  np.testing.assert_allclose(
    plain[0].log_prob / (10 / 6) ** 2, penal[0].log_prob, rtol=1e-5
  )


def test_beams_that_hold_nothing_are_left_out():
  generator = make_generator()
  generator.model.output_length = lengths.ProportionalLength(0.0, 1)
  # An output of one token can only be an EOS.
  (found,) = generator.beam_search(TEXTS[:1], 3)
  assert [x.pieces for x in found] == [()] and np.isfinite(found[0].log_prob)


def test_a_call_says_where_outputs_end(generator):
  (free,) = generator.generate(TEXTS[:1])
  tokens = generator.generate_tokens(
    generator.request(generator.encode(TEXTS[:1]))
  ).tokens[0]
  eos_id = int(tokens[1])
  size = tokens.tolist().index(eos_id) + 1
  (ended,) = generator.generate(TEXTS[:1], eos_id=eos_id)
  # It is part of the text, unlike EOS.
  assert ended.pieces == free.pieces[:size]
  (short,) = generator.generate(TEXTS[:1], max_decode_length=2)
  assert short.pieces == free.pieces[:2]
  (longer,) = generator.generate(TEXTS[:1], max_decode_length=9)
  assert longer.pieces[:6] == free.pieces and len(longer.pieces) == 9


def test_more_draws_keep_the_first_ones(generator):
  options = {'threshold': 0.2, 'sampler': sampling.Sampler(temperature=1.5)}
  (two,), (four,) = (
    generator.generate_many(TEXTS[:1], count, **options) for count in (2, 4)
  )
  assert {x.pieces for x in two} < {x.pieces for x in four}


class _NanMeasure(confidence.ConfidenceMeasure):
  """A damaged classifier."""

  def __call__(self, view):
    return confidence.Measurement(jnp.full(view.hidden.shape[:1], jnp.nan))


def test_confidences_that_are_not_a_number_are_told(generator):
  damaged = generation.TextGenerator(
    model_lib.EncoderDecoderModel(
      generator.model.module, measure=_NanMeasure()
    ),
    generator.params,
    generator.tokenizer,
    inputs_length=12,
    max_decode_length=3,
  )
  # Three tokens, each asked for after three layers.
  with pytest.warns(UserWarning, match='^9 confidences were not a') as record:
    (result,) = damaged.generate(TEXTS[:1], threshold=0.9)
  assert record[0].filename == __file__
  assert result.num_layers_used == (3,) * 3


@pytest.mark.parametrize(
  'call, said',
  [
    (lambda x: x.generate_many(TEXTS, 2), 'needs a sampler'),
    (lambda x: x.generate(TEXTS, seed=-1), 'seed'),
    (lambda x: x.generate(TEXTS, prompts=['a']), 'one prompt for each'),
    (lambda x: x.generate(TEXTS, prompts=['a b c d e f g'] * 3), 'shorter'),
    (
      lambda x: x.generate(
        TEXTS[:1], prompts=['a b'], eos_id=x.tokenizer.encode('a b')[0]
      ),
      'must not hold',
    ),
    (lambda x: x.generate(TEXTS, eos_id=0), 'eos_id must be'),
    (lambda x: x.generate(TEXTS, max_decode_length=0), 'max_decode_length'),
    (lambda x: x.beam_search(TEXTS, 0), 'beams'),
    (lambda x: x.beam_search(TEXTS, 2, alpha=-1.0), 'alpha'),
    (lambda x: x.beam_search(TEXTS, 2, eos_id=10**6), 'eos_id must be'),
  ],
)
def test_impossible_requests_are_refused(generator, call, said):
  with pytest.raises(errors.ConfigError, match=said):
    call(generator)
