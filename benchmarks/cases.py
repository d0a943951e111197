"""The models that are timed: CALM's two sizes, the shipped one, a tiny one.

Weights and inputs are written once, in Hugging Face's layout, which every
system reads: the same numbers for all.
"""

import dataclasses
import pathlib

import numpy as np

from benchmarks import programs
from calm_jax.checkpoints import load, to_huggingface
from calm_jax.evaluation import network_sizes
from calm_jax.t5 import network

_EOS_ID = 1
# CALM Sec. 5.1: T5 1.1 with 8 layers, and with 12.
CONFIGS = {
  'small': network.T5Config(vocab_size=32128),
  'base': network.T5Config(
    vocab_size=32128,
    emb_dim=768,
    num_heads=12,
    num_encoder_layers=12,
    num_decoder_layers=12,
    mlp_dim=2048,
  ),
  'tiny': network.T5Config(
    vocab_size=300,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=3,
    head_dim=8,
    mlp_dim=32,
  ),
}
MODELS = ('small', 'base', 'demo', 'tiny')


@dataclasses.dataclass(frozen=True)
class Case:
  """One model on disk.

  Attributes:
    name: one of MODELS.
    directory: with weights and inputs.npy.
    sizes: of its decoder.
    source_length: tokens of each input.
  """

  name: str
  directory: pathlib.Path
  sizes: network_sizes.NetworkSizes
  source_length: int


def write(
  name: str, directory: pathlib.Path, source_length: int, num_rows: int
) -> Case:
  """Writes a model and `num_rows` random inputs; the shipped model's are as
  long as its own at most."""
  if name == 'demo':
    model = load.load_model()
    config, params = model.config, model.params
    source_length = min(source_length, model.info.feature_lengths['inputs'])
    for measure in programs.MEASURES.values():
      measure.check(config, params)
  else:
    config = CONFIGS[name]
    params = programs.random_params(config)
    # Its logit is 0 and never the largest, so that no system ends early.
    head = params['decoder']['logits_dense']
    head['kernel'] = head['kernel'].at[:, _EOS_ID].set(0.0)
  to_huggingface.save(directory, params, config)
  rng = np.random.default_rng(0)
  inputs = rng.integers(2, config.vocab_size, (num_rows, source_length))
  np.save(directory / 'inputs.npy', inputs.astype(np.int32))
  sizes = network_sizes.NetworkSizes(
    emb_dim=config.emb_dim,
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    mlp_dim=config.mlp_dim,
    num_mlp_inputs=len(config.mlp_activations),
    num_decoder_layers=config.num_decoder_layers,
    vocab_size=config.vocab_size,
  )
  return Case(name, directory, sizes, source_length)
