"""Draws a token from the distribution of the layer where it leaves."""

import dataclasses
import numbers

import gin
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax import errors
from calm_jax.early_exit.engine import prediction

# A float32's bits in the order of the floats: those of negative ones mirrored.
_MIRROR = 0x7FFFFFFF

# Logits over a smaller one leave float32's range; T5X is greedy below it.
_LEAST_TEMPERATURE = 1e-4


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sampler:
  """Temperature, then top-k, then top-p sampling, as T5X's.

  Attributes:
    temperature: divides the logits; small values approach the greedy choice.
    top_k: only the k most probable tokens are drawn; 0 for all.
    top_p: of these only the most probable ones that together reach this
      probability; 0 for all. Tokens as probable as the last one that either
      keeps are kept too: which of them has the lower id says nothing.
    rescale_log_probs: whether a token's log-probability is that of the
      distribution it was drawn from (T5X's default), or of the model's.

  Raises:
    ConfigError: a number out of range.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 0.0
  rescale_log_probs: bool = True

  def __post_init__(self):
    for name in ('temperature', 'top_p'):
      if not isinstance(getattr(self, name), numbers.Real):
        raise errors.ConfigError(
          f'Sampler.{name} must be a number, known when the program is'
          f' compiled, got {getattr(self, name)!r}.'
        )
    if not _LEAST_TEMPERATURE <= self.temperature < float('inf'):
      raise errors.ConfigError(
        f'Sampler.temperature must be finite and at least {_LEAST_TEMPERATURE},'
        f' got'
        f' {self.temperature}; for the most probable token decode greedily.'
      )
    if type(self.top_k) is not int or self.top_k < 0:
      raise errors.ConfigError(
        f'Sampler.top_k must be an integer of at least 0 (all), got'
        f' {self.top_k!r}.'
      )
    if not 0.0 <= self.top_p <= 1.0:
      raise errors.ConfigError(
        f'Sampler.top_p must be in [0, 1] (0 for all), got {self.top_p}.'
      )

  def __call__(
    self,
    keys: jax.Array,
    logits: Float[Array, 'batch candidates'],
    log_rest: Float[Array, ' batch'] | None = None,
  ) -> tuple[Int[Array, ' batch'], Float[Array, ' batch']]:
    """Draws one index per row.

    Args:
      keys: [batch] random keys; a row's draw depends on its own key alone.
      logits: of the candidates.
      log_rest: log-sum-exp of the logits that are not among the candidates,
        which cannot be drawn; none are left out if None.

    Returns:
      Index and log-probability of each row's draw.
    """
    allowed = self.truncated(logits)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    # The Gumbel-max trick: the argmax is a draw from softmax(allowed).
    index = jnp.argmax(allowed + noise, axis=-1)
    scored = allowed if self.rescale_log_probs else logits
    log_sum = jax.nn.logsumexp(scored, axis=-1)
    if log_rest is not None and not self.rescale_log_probs:
      log_sum = jnp.logaddexp(log_sum, log_rest)
    chosen = jnp.take_along_axis(scored, index[:, None], axis=-1)[:, 0]
    return index.astype(jnp.int32), chosen - log_sum

  def truncated(
    self, logits: Float[Array, 'batch candidates']
  ) -> Float[Array, 'batch candidates']:
    """Logits over temperature; -inf for what top-k and top-p leave out."""
    logits = logits / self.temperature
    if 0 < self.top_k < logits.shape[-1]:
      values, _ = prediction.largest(logits, self.top_k)
      logits = jnp.where(logits >= values[:, -1:], logits, -jnp.inf)
    if 0.0 < self.top_p < 1.0:
      lowest = _lowest_needed(logits, self.top_p)
      logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    return logits


def check_seed(seed: int) -> None:
  """Raises ConfigError unless the seed is a uint32."""
  if not 0 <= seed < 2**32:
    raise errors.ConfigError(f'The seed must be in [0, 2^32), got {seed}.')


def _lowest_needed(
  logits: Float[Array, 'batch candidates'], top_p: float
) -> Float[Array, 'batch 1']:
  """The least logit that is still needed to reach `top_p`, without a sort.

  A token is needed if the more probable ones do not reach top_p without it.
  Their probability only falls as a logit grows, so the least needed logit is
  found by bisection, over the 2^32 floats themselves: 32 sums over the
  candidates, and no tolerance.
  """
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  wanted = top_p * jnp.sum(weights, axis=-1, keepdims=True)

  def halve(_, bounds):
    too_low, needed = bounds
    # Their mean, rounded down; their sum could leave int32.
    middle = (too_low & needed) + ((too_low ^ needed) >> 1)
    is_above = logits > _float_of(middle)
    above = jnp.sum(jnp.where(is_above, weights, 0.0), axis=-1, keepdims=True)
    is_needed = above < wanted
    return (
      jnp.where(is_needed, too_low, middle),
      jnp.where(is_needed, middle, needed),
    )

  highest = _order_of(jnp.max(logits, axis=-1, keepdims=True))
  bounds = jnp.full_like(highest, _order_of(-jnp.inf)), highest
  return _float_of(lax.fori_loop(0, 32, halve, bounds)[1])


def _order_of(values: jax.Array) -> jax.Array:
  """float32 -> int32 in the same order."""
  bits = lax.bitcast_convert_type(jnp.float32(values), jnp.int32)
  return jnp.where(bits < 0, bits ^ _MIRROR, bits)


def _float_of(order: jax.Array) -> jax.Array:
  """The inverse of `_order_of`."""
  bits = jnp.where(order < 0, order ^ _MIRROR, order)
  return lax.bitcast_convert_type(bits, jnp.float32)
