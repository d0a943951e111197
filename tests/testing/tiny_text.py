"""A tiny network that reads and writes text, for tests of the stages."""

import jax
import jax.numpy as jnp

from calm_jax.data import vocabulary
from calm_jax.decode import generation
from calm_jax.decode import model as model_lib
from calm_jax.t5 import network


def make_generator(max_decode_length=6, **kwargs):
  """The same network and weights at each call; `kwargs` are the model's."""
  tokenizer = vocabulary.default_tokenizer()
  config = network.T5Config(
    vocab_size=tokenizer.vocab_size,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=3,
    dropout_rate=0.0,
  )
  # Packs would double the programs; `packing_test` tests them.
  model = model_lib.EncoderDecoderModel(
    network.Transformer(config), **{'rows_per_pack': ()} | kwargs
  )
  row = jnp.ones((1, 4), jnp.int32)
  params = model.module.init(
    jax.random.key(1), row, row, row, enable_dropout=False
  )['params']
  return generation.TextGenerator(
    model,
    params,
    tokenizer,
    inputs_length=12,
    max_decode_length=max_decode_length,
  )
