"""Draws a token from the distribution of the layer where it leaves."""

import dataclasses

import gin
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from calm_jax import errors

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
      probability; 0 for all.
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
      values, _ = lax.optimization_barrier(lax.top_k(logits, self.top_k))
      logits = jnp.where(logits >= values[:, -1:], logits, -jnp.inf)
    if 0.0 < self.top_p < 1.0:
      ordered = -jnp.sort(-logits, axis=-1)
      probabilities = jax.nn.softmax(ordered)
      before = jnp.cumsum(probabilities, axis=-1) - probabilities
      # The least probable token that is still needed to reach top_p.
      last = jnp.sum(before < self.top_p, axis=-1, keepdims=True) - 1
      lowest = jnp.take_along_axis(ordered, last, axis=-1)
      logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    return logits
