"""The same numbers as T5X and Hugging Face, from their own weights.

The expected arrays were written by the real libraries (see testdata/). Tokens
are padded in one row, so masks are covered too.
"""

import jax
import numpy as np
import pytest

from calm_jax.checkpoints import from_huggingface, from_t5x
from calm_jax.t5 import layers
from calm_jax.t5 import network as t5_network

VERSIONS = {
  '1_0': {'mlp_activations': ('relu',), 'logits_via_embedding': True},
  '1_1': {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False},
}


def config_of(version):
  return t5_network.T5Config(
    vocab_size=128,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=3,
    num_decoder_layers=4,
    head_dim=8,
    mlp_dim=32,
    **VERSIONS[version],
  )


def assert_equal_in_float32(ours, theirs):
  np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-6)


def read_expected(path):
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


def run(config, params, sources, inputs, targets):
  """Encoded source, decoder states of all layers, and the logits."""

  @jax.jit
  def apply(params):
    network = t5_network.Transformer(config).bind({'params': params})
    encoded = network.encode(sources)
    states = network.decode_all_layers(encoded, sources, inputs, targets)
    return encoded, states, network.logits_from_hidden(states[-1])

  return apply(params)


@pytest.mark.parametrize('version', VERSIONS)
def test_equals_t5x(version, t5x_tiny):
  config = config_of(version)
  params = from_t5x.load_params(t5x_tiny / f't5_{version}_tiny', config)
  expected = read_expected(t5x_tiny / f't5_{version}_tiny_expected.npz')
  encoded, _, logits = run(
    config,
    params,
    expected['encoder_input_tokens'],
    expected['decoder_input_tokens'],
    expected['decoder_target_tokens'],
  )
  assert_equal_in_float32(encoded, expected['encoded'])
  assert_equal_in_float32(logits, expected['logits'])


@pytest.mark.parametrize('version', VERSIONS)
def test_equals_hugging_face_in_every_layer(version, hf_tiny):
  imported = from_huggingface.load(hf_tiny / f't5_v{version}_tiny')
  assert imported.config == config_of(version)
  expected = read_expected(hf_tiny / f't5_v{version}_tiny_expected.npz')
  sources = expected['encoder_input_tokens']
  inputs = expected['decoder_input_tokens']
  # Hugging Face masks no decoder position unless told: all are tokens here.
  encoded, states, logits = run(
    imported.config, imported.params, sources, inputs, np.ones_like(inputs)
  )

  is_token = sources > 0
  # At padding the two differ, and nothing reads it.
  assert_equal_in_float32(encoded[is_token], expected['encoded'][is_token])
  # Theirs: the embedding, each layer but the last, the last after the norm.
  theirs = expected['decoder_hidden']
  assert len(theirs) == len(states) + 1
  embedding = imported.params['token_embedder']['embedding']
  np.testing.assert_array_equal(embedding[inputs], theirs[0])
  assert_equal_in_float32(states[:-1], theirs[1:-1])
  norm = {'params': imported.params['decoder']['decoder_norm']}
  assert_equal_in_float32(
    layers.LayerNorm().apply(norm, states[-1]), theirs[-1]
  )
  assert_equal_in_float32(logits, expected['logits'])


@pytest.mark.parametrize('version', VERSIONS)
def test_greedy_decoding_equals_hugging_face(version, hf_tiny):
  imported = from_huggingface.load(hf_tiny / f't5_v{version}_tiny')
  expected = read_expected(hf_tiny / f't5_v{version}_tiny_expected.npz')
  theirs = expected['greedy']
  # Along their output, each next token is our most probable one: by induction
  # ours is the same. `generate` kept the final token at its length limit.
  inputs = theirs[:, :-1].astype(np.int32)
  _, _, logits = run(
    imported.config,
    imported.params,
    expected['encoder_input_tokens'],
    inputs,
    np.ones_like(inputs),
  )
  best = np.argmax(logits, axis=-1)
  has_ended = np.cumsum(inputs == 1, axis=1) > 0
  np.testing.assert_array_equal(np.where(has_ended, 0, best), theirs[:, 1:])
