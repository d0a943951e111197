"""A tiny network and a task it can learn: repeat the source."""

import types

import numpy as np

from calm_jax.t5 import network

VOCAB_SIZE = 32


def copying_model(dropout_rate: float = 0.0):
  """What `training.loop.train` takes as a model."""
  config = network.T5Config(
    vocab_size=VOCAB_SIZE,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dropout_rate=dropout_rate,
  )
  return types.SimpleNamespace(module=network.Transformer(config))


class CopyingBatches:
  """Random strings over a few tokens, copied; the rows differ in length."""

  def __init__(
    self, batch_size: int = 16, length: int = 6, num_tokens: int = 8
  ):
    self._shape = (batch_size, length)
    self._num_tokens = num_tokens

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """T5X's features; a function of the step alone."""
    rng = np.random.default_rng(step)
    tokens = rng.integers(2, 2 + self._num_tokens, self._shape, dtype=np.int32)
    lengths = rng.integers(2, self._shape[1] + 1, self._shape[0])
    tokens *= np.arange(self._shape[1]) < lengths[:, None]
    shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    return {
      'encoder_input_tokens': tokens,
      'decoder_input_tokens': shifted,
      'decoder_target_tokens': tokens,
      'decoder_loss_weights': (tokens > 0).astype(np.float32),
    }
