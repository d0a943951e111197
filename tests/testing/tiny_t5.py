"""Tiny networks whose layers disagree, for tests of early exit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.decode import beam_search
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5 import network

VOCAB_SIZE = 24
CLASSIFIERS = (
  classifiers.Linear(),
  classifiers.Mlp(hidden_dim=8, per_layer=True),
  classifiers.Attention(width=8, num_heads=2),
  classifiers.Attention(
    'bare', 8, 2, (8,), norm=False, residual=False, layer_embedding=False
  ),
)


def tiny_config(*, tied: bool, num_decoder_layers: int = 4) -> network.T5Config:
  return network.T5Config(
    vocab_size=VOCAB_SIZE,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=num_decoder_layers,
    mlp_activations=('relu',) if tied else ('gelu', 'linear'),
    logits_via_embedding=tied,
    dropout_rate=0.0,
  )


@functools.cache
def tiny_params(config: network.T5Config, seed: int = 0):
  """Random weights, scaled so that confidences spread over (0, 1)."""
  tokens = jnp.ones((1, 4), jnp.int32)
  params = network.Transformer(config).init(
    jax.random.key(seed), tokens, tokens, tokens, enable_dropout=False
  )['params']
  trained = {
    kind.name: classifiers.init_params(
      kind, jax.random.key(number), config.emb_dim, config.num_decoder_layers
    )
    for number, kind in enumerate(CLASSIFIERS)
  }
  params = {**params, classifiers.PARAMS: trained}
  return jax.tree.map(lambda x: x * 2.0 if x.ndim == 2 else x, params)


def tiny_model(
  measure,
  *,
  tied: bool = False,
  num_decoder_layers: int = 4,
  rows_per_pack=(),
  **kwargs,
):
  """A model and its parameters; without packs, which double a program."""
  config = tiny_config(tied=tied, num_decoder_layers=num_decoder_layers)
  model = model_lib.EncoderDecoderModel(
    network.Transformer(config),
    measure=measure,
    rows_per_pack=rows_per_pack,
    **kwargs,
  )
  return model, tiny_params(config)


def generate(model, params, tokens, thresholds, *, prepared=None, **asked):
  """The model's result for a request that is made of the other arguments."""
  request = model.request(tokens, thresholds, **asked)
  return model.generate(params, request, prepared)


def search(model, params, tokens, num_beams, alpha=0.6, **asked):
  """Tokens [sources, beams, target] and scores [sources, beams] of a search."""
  thresholds = np.ones((len(tokens), num_beams))
  decode_fn = beam_search.BeamSearch(alpha)
  result = generate(
    model, params, tokens, thresholds, decode_fn=decode_fn, **asked
  )
  shape = (len(tokens), num_beams)
  return result.tokens.reshape(*shape, -1), result.log_probs.reshape(shape)


def sources(batch_size: int, length: int = 7, seed: int = 0) -> np.ndarray:
  """Random sources of several lengths, padded with 0."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(2, VOCAB_SIZE, (batch_size, length), dtype=np.int32)
  lengths = rng.integers(2, length + 1, batch_size)
  return np.where(np.arange(length) < lengths[:, None], tokens, 0)
