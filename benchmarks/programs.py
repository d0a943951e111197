"""Our decoders as compiled programs, each with exits where one wants them.

Measures by key: MEASURES. An exit is a number: 1..L lets every token leave
after that layer, L computes the measure everywhere and lets none leave early,
MIXED follows a fixed pattern of layers. All exits of a measure share one
program, because thresholds are data.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cost_model
from calm_jax.decode import loop, request
from calm_jax.early_exit.engine import layer_loop
from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  never_exit,
  saturation,
  screening,
  softmax,
  static,
  top_k,
)
from calm_jax.t5 import joined, network

MIXED = 0
_NEVER_EOS = -1
_PATTERN_LENGTH = 61  # prime, so that rows never run in step

# Those that ship with the model (gin/early_exit/classifier_attention.gin).
CLASSIFIERS = (
  classifiers.Linear(),
  classifiers.Attention(head_hidden_dims=(256,)),
)
MEASURES = {
  'none': static.StaticExit(),
  'softmax': softmax.SoftmaxTopTwoGap(),
  'top_k_16': top_k.TopKPropagation(k=16),
  'top_k_64': top_k.TopKPropagation(k=64),
  'top_k_256': top_k.TopKPropagation(k=256),
  'screened': screening.ScreenedTopK(),
  # Fewer candidates from a better preview: for larger batches.
  'screened_wide': screening.ScreenedTopK(rank=128, num_candidates=64),
  'saturation': saturation.HiddenStateSaturation(),
  'linear': classifier_confidence.ClassifierConfidence(CLASSIFIERS[0]),
  'attention': classifier_confidence.ClassifierConfidence(CLASSIFIERS[1]),
}


@dataclasses.dataclass(frozen=True)
class Paced(never_exit.NeverExit):
  """Computes a measure, then answers with the share of layers computed.

  So the threshold says after which layer a token leaves.
  """

  def __call__(self, view):
    answer = self.measure(view)
    share = static.layer_share(view.layer, view.num_layers)
    # Always so, but no compiler knows: the measure is not left out.
    is_number = answer.confidence > -2.0
    return answer.replace(confidence=jnp.where(is_number, share, -1.0))


def mixed_layers(num_layers: int) -> np.ndarray:
  """[_PATTERN_LENGTH] layers; their mean is 2.5 of 8, 3.4 of 12.

  Drawn from the distribution that the cost model assumes for a mean.
  """
  mean = 1 + (num_layers - 1) * 1.5 / 7
  shares = cost_model.shares_with_mean(num_layers, mean)
  return np.random.default_rng(0).choice(
    np.arange(1, num_layers + 1), _PATTERN_LENGTH, p=shares
  )


def threshold_of(exit: int, measure: str, num_layers: int) -> float:
  """The threshold that makes tokens leave at `exit`."""
  if exit == MIXED:
    return -1.0
  if exit == num_layers and measure == 'none':
    return 1.0  # The full model; others compute their measure on the way.
  return (exit - 0.5) / num_layers


@dataclasses.dataclass(frozen=True)
class Programs:
  """Traceable functions over one network; N tokens are made of every row."""

  config: network.T5Config
  new_tokens: int

  def encode(self, params, source):
    """[batch, source] -> [batch, source, embed]."""
    return network.Transformer(self.config).apply(
      {'params': params}, source, method='encode'
    )

  def constants(self, params, source):
    """Encoder and source projections: all that is done once per sequence."""
    decoder = self._decoder('none', params)
    encoded = self.encode(params, source)
    return decoder.constants(encoded, source, self.new_tokens)

  def prepared(self, measure, params):
    """What a measure derives from the parameters, once per model."""
    return MEASURES[measure].prepare(self.config, params)

  def joined(self, params):
    """Kernels laid out for decoding, once per model."""
    return joined.join_kernels(params, self.config.num_decoder_layers)

  def decode(self, measure, params, prepared, joined, constants, thresholds):
    """All tokens of a batch, from what is known of its source."""
    batch = thresholds.shape[0]
    decoder = self._decoder(measure, params, prepared=prepared, joined=joined)
    pattern = jnp.asarray(
      [
        threshold_of(int(x), '', self.config.num_decoder_layers)
        for x in mixed_layers(self.config.num_decoder_layers)
      ],
      jnp.float32,
    )

    def tokens_to_step(fed, cache):
      place = (fed.clock.time + 7 * jnp.arange(batch)) % len(pattern)
      in_force = jnp.where(thresholds < 0, pattern[place], thresholds)
      return decoder(fed, in_force, constants, cache)

    asked = request.make(
      np.ones((batch, 1), np.int32),
      vocab_size=self.config.vocab_size,
      max_decode_length=self.new_tokens,
    ).replace(eos_id=_NEVER_EOS)
    cache = decoder.empty_cache(batch, self.new_tokens)
    lengths = jnp.full(batch, self.new_tokens)
    num_layers = self.config.num_decoder_layers
    state = loop.start(asked, cache, lengths, num_layers)
    return loop.run(tokens_to_step, asked, state).result

  def _decoder(self, measure, params, **prepared):
    return layer_loop.EarlyExitDecoder(
      params, self.config, Paced(MEASURES[measure]), **prepared
    )


def random_params(config: network.T5Config):
  """Weights drawn once for all systems, with exit classifiers."""
  token = jnp.ones((1, 1), jnp.int32)
  module = network.Transformer(config)
  params = jax.jit(
    lambda key: module.init(key, token, token, token, enable_dropout=False)
  )(jax.random.key(0))['params']
  params[classifiers.PARAMS] = {
    kind.name: classifiers.init_params(
      kind, jax.random.key(1), config.emb_dim, config.num_decoder_layers
    )
    for kind in CLASSIFIERS
  }
  return params
