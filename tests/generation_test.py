"""Text in, text out, with a tiny network and the shipped vocabulary."""

import jax
import numpy as np
import pytest
from testing.tiny_text import make_generator

from calm_jax import errors, generation, models
from calm_jax.data import vocabulary
from calm_jax.t5 import network

TEXTS = ['restore: this works', 'restore: does it', 'restore: yes']


@pytest.fixture(scope='module')
def generator():
  return make_generator()


def test_pieces_layers_and_text_belong_together(generator):
  results = generator.generate(TEXTS, threshold=1.0)
  tokens = generator.generate_tokens(
    generator.encode(TEXTS), np.ones(3, np.float32)
  )
  for row, result in enumerate(results):
    ids = [x for x in tokens.tokens[row] if x > 1]
    assert result.text == generator.tokenizer.decode(ids)
    assert result.pieces == tuple(map(generator.tokenizer.piece, ids))
    assert result.num_layers_used == (3,) * len(ids)
    assert len(result.confidences) == len(ids)
    assert result.log_prob == tokens.log_probs[row] < 0


def test_threshold_zero_uses_the_first_layer(generator):
  for result in generator.generate(TEXTS, threshold=0.0):
    assert set(result.num_layers_used) == {1}


def test_encodes_with_eos_and_truncates(generator):
  with pytest.warns(UserWarning, match='1 of 2 texts are longer than 12'):
    tokens = generator.encode(['restore: a', 'restore: ' + 'word ' * 50])
  assert tokens.shape == (2, 12)
  assert (tokens[1] > 0).all() and tokens[1, -1] == vocabulary.EOS_ID
  ends = np.flatnonzero(tokens[0] == vocabulary.EOS_ID)
  assert len(ends) == 1 and (tokens[0, ends[0] + 1 :] == 0).all()


def test_thresholds_share_one_compiled_program(generator):
  tokens = generator.encode(TEXTS)
  for threshold in (0.0, 0.3, 1.0):
    generator.generate_tokens(tokens, np.full(3, threshold, np.float32))
  before = generator._generate._cache_size()
  generator.generate_tokens(tokens, np.float32([0.1, 0.7, 1.0]))
  assert generator._generate._cache_size() == before


def test_no_texts_give_no_generations(generator):
  assert generator.generate([]) == []


@pytest.mark.parametrize('text', ['', '  \n'])
def test_refuses_an_empty_text(generator, text):
  with pytest.raises(errors.DataError, match='text 2 of 2 is empty'):
    generator.generate(['restore: fine', text])


def test_refuses_a_text_that_is_not_unicode(generator):
  undecodable = b'caf\xe9'.decode('utf-8', 'surrogateescape')
  with pytest.raises(errors.DataError, match='text 1 of 1 holds bytes'):
    generator.generate([undecodable])


@pytest.mark.parametrize('threshold', [-0.1, 1.1, float('nan')])
def test_refuses_thresholds_outside_the_unit_interval(generator, threshold):
  with pytest.raises(errors.ConfigError, match=r'in \[0, 1\]'):
    generator.generate(TEXTS, threshold=threshold)


def test_refuses_a_model_that_computes_nan():
  generator = make_generator()
  generator.params = jax.tree.map(lambda x: x * np.nan, generator.params)
  with pytest.raises(errors.NumericError, match='not finite'):
    generator.generate(TEXTS)


def test_refuses_a_vocabulary_that_is_too_large(generator):
  config = generator.model.config.replace(vocab_size=100)
  model = models.EncoderDecoderModel(network.Transformer(config))
  with pytest.raises(errors.DataError, match='only 100 rows'):
    generation.TextGenerator(model, generator.params, generator.tokenizer)
