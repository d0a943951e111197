"""The parts that an early exit decoder is made of, over one set of parameters.

`layer_loop` puts a token through them, `token_run` and `exit_decision` are told
of them; the network's own layers are reached from here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import struct

from calm_jax.early_exit.engine import confidence as confidence_lib
from calm_jax.early_exit.engine import (
  decoder_state,
  packing,
  sampling,
  schedule,
)
from calm_jax.early_exit.engine import prediction as prediction_lib
from calm_jax.early_exit.engine import skipped_layers as skipped_layers_lib
from calm_jax.t5 import joined as joined_lib
from calm_jax.t5 import network


@struct.dataclass
class DecoderParts:
  """Network, measure, exits and what was derived from the parameters.

  Attributes:
    params: the parameter tree of `network.Transformer`.
    config: its sizes.
    measure: says how confident a layer is.
    exit_layers: where tokens may leave.
    skipped_layers: what the layers that a token skips see of it.
    sampler: draws tokens from the distribution of the layer where they leave;
      the best one if None.
    prepared: what the measure derived from the parameters.
    joined: kernels of the layers laid out for decoding (`t5.joined`), or none.
    trace: whether to record every layer's confidence and best token.
    rows_per_pack: how many rows of a batch a layer takes at a time once others
      have left, the sizes of `packing`; always the whole batch if there are
      none. The numbers are the same with any.
  """

  params: Mapping[str, Any]
  config: network.T5Config = struct.field(pytree_node=False)
  measure: confidence_lib.ConfidenceMeasure = struct.field(pytree_node=False)
  exit_layers: schedule.ExitLayers = struct.field(
    pytree_node=False, default=schedule.ExitLayers()
  )
  skipped_layers: skipped_layers_lib.SkippedLayers = struct.field(
    pytree_node=False, default=skipped_layers_lib.ProjectExitState()
  )
  sampler: sampling.Sampler | None = struct.field(
    pytree_node=False, default=None
  )
  prepared: Any = ()
  joined: joined_lib.Joined = ()
  trace: bool = struct.field(pytree_node=False, default=False)
  rows_per_pack: tuple[int, ...] = struct.field(
    pytree_node=False, default=packing.ROWS_PER_PACK
  )

  @property
  def exits(self) -> tuple[int, ...]:
    """Layers after which a token may leave, ascending."""
    return self.exit_layers.layers(self.config.num_decoder_layers)

  def predict_fn(
    self, call: decoder_state.TokenCall
  ) -> Callable[..., prediction_lib.Prediction]:
    """Prediction of logits, drawn by the sampler if there is one."""
    if self.sampler is None:
      return prediction_lib.predict

    def choose(logits, log_rest):
      return self.sampler(call.sample_keys, logits, log_rest)

    return functools.partial(prediction_lib.predict, choose=choose)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[rows, embed] -> [rows, vocab]."""
    return self.transformer(hidden, method='logits_from_hidden')

  def transformer(self, *args, method: str):
    """A method of `network.Transformer`."""
    return network.Transformer(self.config).apply(
      {'params': self.params}, *args, method=method
    )

  def layer(self, i: int, *args, method: str):
    """A method of the `network.DecoderLayer` number i, from 0."""
    variables = {'params': self.params['decoder'][f'layers_{i}']}
    if self.joined:
      variables['joined'] = self.joined[i]
    return network.DecoderLayer(self.config).apply(
      variables, *args, method=method
    )
