"""The sizes of a T5 network that decide what a token costs.

ModelDescription.network -> NetworkSizes -> flops

Plain numbers, so that operations are counted where no network can be built.
"""

import dataclasses
from typing import Self

from calm_jax import errors
from calm_jax.records import descriptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSizes:
  """Sizes as `t5.network.T5Config` names them.

  Attributes:
    emb_dim: width of the hidden states, d.
    num_heads, head_dim: of each attention; a = num_heads * head_dim.
    mlp_dim: width of the feed-forward block, f.
    num_mlp_inputs: kernels into it: 1, or 2 where one gates the other, g.
    num_decoder_layers: L.
    vocab_size: columns of the output embedding, V.

  Raises:
    DataError: one is less than 1.
  """

  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_mlp_inputs: int
  num_decoder_layers: int
  vocab_size: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise errors.DataError(
          f'The network size {name} must be at least 1, got {value}.'
        )

  @property
  def attention_dim(self) -> int:
    return self.num_heads * self.head_dim

  @classmethod
  def of(cls, network: descriptions.Description) -> Self | None:
    """Those of a described network; None if it does not have them all."""
    knobs = dict(network.knobs)
    knobs['num_mlp_inputs'] = len(knobs.get('mlp_activations', ()))
    names = [field.name for field in dataclasses.fields(cls)]
    if not set(names) <= set(knobs):
      return None
    return cls(**{name: knobs[name] for name in names})
