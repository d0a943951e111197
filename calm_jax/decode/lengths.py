"""How long the output of each row may become."""

import dataclasses

import gin
import jax.numpy as jnp
from jaxtyping import Array, Int

from calm_jax import errors
from calm_jax.decode import request as request_lib


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ProportionalLength:
  """Longest output as a function of the input: ratio * its tokens + extra.

  For tasks whose output is about as long as the input. A row that fell into a
  loop then ends soon, instead of at the longest output of all.

  Attributes:
    ratio: output tokens per input token (EOS counts on both sides).
    extra: output tokens beyond that.

  Raises:
    ConfigError: no input could have any output, or extra is no whole number.
  """

  ratio: float = 1.0
  extra: int = 0

  def __post_init__(self):
    if not (0 <= self.ratio < float('inf') and self.ratio + self.extra > 0):
      raise errors.ConfigError(
        'ProportionalLength needs a ratio of at least 0 and a positive sum of'
        f' ratio and extra, got {self.ratio} and {self.extra}.'
      )
    if not float(self.extra).is_integer():
      raise errors.ConfigError(
        f'ProportionalLength.extra must be a whole number, got {self.extra}.'
      )
    # As JSON gives it: 6.0 bounds as 6 does, and is described so.
    object.__setattr__(self, 'extra', int(self.extra))

  def __call__(
    self, encoder_input_tokens: Int[Array, 'batch source']
  ) -> Int[Array, ' batch']:
    """[batch, source] tokens, 0 is padding -> longest output of each row."""
    num_tokens = jnp.sum(encoder_input_tokens > 0, axis=-1)
    longest = jnp.ceil(self.ratio * num_tokens + self.extra)
    return jnp.maximum(longest.astype(jnp.int32), 1)


def longest_outputs(
  request: request_lib.DecodeRequest, bound: ProportionalLength | None
) -> Int[Array, ' sources']:
  """The longest output of each source of a request.

  A bound by the input never cuts a prompt, and leaves it one token. The token
  loop ends at `max_decode_length` in any case.

  Args:
    request: what was asked for.
    bound: the model's bound by the input, if it has one.
  """
  prompt_lengths = jnp.zeros(request.num_sources, jnp.int32)
  if request.prompts is not None:
    prompt_lengths = jnp.sum(request.prompts > 0, axis=1)
  longest = jnp.full_like(prompt_lengths, request.max_decode_length)
  if bound is not None:
    of_input = bound(request.encoder_input_tokens)
    longest = jnp.maximum(of_input, prompt_lengths + 1)
  if request.max_decode_steps is not None:
    longest = jnp.minimum(longest, prompt_lengths + request.max_decode_steps)
  return longest
