"""Outputs by source, under T5X CALM's names."""

import jax
import jax.numpy as jnp

from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib


def by_source(
  request: request_lib.DecodeRequest,
  result: result_lib.DecodeResult,
  return_all_decodes: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Tokens and T5X CALM's auxiliary outputs of each source.

  Args:
    request: with one or more rows for each source.
    result: of it.
    return_all_decodes: all rows of a source, from the worst to the best by
      their scores as in T5X, instead of the best one.

  Returns:
    Tokens [sources, target], `scores` [sources], `exits` and `confidences`
    [sources, target]; -1 where there is no token, or one of a prompt. A beam
    search gives `scores` alone, -inf for beams that hold nothing. With all
    decodes each has one more axis after the sources.
  """
  is_token = result.num_layers_used > 0
  found = {'tokens': result.tokens, 'scores': result.log_probs}
  if not request.has_beams:
    found |= {
      'exits': jnp.where(is_token, result.num_layers_used, -1),
      'confidences': jnp.where(is_token, result.confidences, -1.0),
    }
  shape = (request.num_sources, request.rows_per_source)
  found = {name: x.reshape(*shape, *x.shape[1:]) for name, x in found.items()}
  order = jnp.argsort(found['scores'], axis=1)
  if not return_all_decodes:
    order = order[:, -1:]
  found = {
    name: jnp.take_along_axis(
      x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1
    )
    for name, x in found.items()
  }
  if not return_all_decodes:
    found = {name: x[:, 0] for name, x in found.items()}
  return found.pop('tokens'), found
