"""Operations of the decoder per token (Elbayad et al. 2020, appendix B).

CALM reports these as its efficiency besides measured time. As there, products
of matrices and vectors count, 2 operations per multiplication; norms, softmax,
activations and embedding look-ups do not; the encoder is left out, as it is the
same for all systems.

Symbols: d width of the states, a = heads x head_dim, f width of the
feed-forward block with g kernels into it (2 if gated), V vocabulary, L layers,
t position of the token from 1, x tokens of the source, n layers that the token
used, T tokens of its sequence.

    per layer that ran
      self-attention         8 d a + 4 t a    four projections; t positions
      cross-attention        4 d a + 4 x a    query and output; x positions
      feed-forward           2 (g + 1) d f
    once per sequence
      source projection      4 x d a          per layer that any token reached
    once per skipped layer
      propagation            4 d a            if a later token reached the layer
        true states          the layer
    confidence and choice
      see `confidence_cost`; the full model: 2 d V

Choices of ours where the sources are silent: the source is projected for layers
that some token reached (the paper's reductions for SQuAD, whose outputs have
five tokens, need that: with 2 of 8 layers everywhere and 512 source tokens the
formula gives 3.5, and 1.1 if all layers count; the paper says 3.65), and keys
and values of a skipped layer count when they are needed. This package projects
the source for all layers before the first token, which is seen in its time.
"""

import numpy as np

from calm_jax import errors
from calm_jax.evaluation import (
  confidence_cost,
  network_sizes,
  skipped_cost,
)
from calm_jax.records import contracts

NetworkSizes = network_sizes.NetworkSizes
FULL_MODEL = confidence_cost.ChosenOnly()
EXIT_STATE = skipped_cost.Projected()


def flops_per_token(
  sizes: NetworkSizes,
  num_layers_used: np.ndarray,
  source_lengths: np.ndarray,
  cost: confidence_cost.ConfidenceCost = FULL_MODEL,
  exits: tuple[int, ...] = (),
  skipping: skipped_cost.SkippedCost = EXIT_STATE,
) -> contracts.Flops:
  """Counts what was decoded, exactly, and divides by its tokens.

  Args:
    sizes: of the network.
    num_layers_used: [N, T], 1..L, 0 where there is no token.
    source_lengths: [N] tokens of the sources.
    cost: of the confidence measure.
    exits: layers after which a token might leave, the last is L; all if empty.
    skipping: what a skipped layer costs that a later token needs.

  Raises:
    DataError: there is no token, or one left where no exit is.
  """
  used = np.asarray(num_layers_used, np.int64)
  lengths = np.asarray(source_lengths, np.float64)[:, None]
  exits = exits or tuple(range(1, sizes.num_decoder_layers + 1))
  # [L] before [N, T]: layer by layer, which tokens ran it.
  layers = np.arange(1, sizes.num_decoder_layers + 1)[:, None, None]
  ran = used >= layers
  num_tokens = int((used > 0).sum())
  if not num_tokens:
    raise errors.DataError('Operations per token need at least one token.')
  reached = ran.any(axis=2)  # [L, N]
  # [L, N, T]: a token at or after this one ran the layer, this one did not.
  needed_later = np.flip(np.logical_or.accumulate(np.flip(ran, 2), axis=2), 2)
  skipped = needed_later & ~ran & (used > 0)
  positions = np.arange(1, used.shape[1] + 1)
  self_attention, cross_attention = skipped_cost.attention(
    sizes, positions, lengths
  )
  confidence, output = _confidence(sizes, used, positions, cost, exits)
  below_last = np.array(exits[:-1], np.int64) - 1
  confidence += cost.per_skipped_exit(sizes) * skipped[below_last].sum()
  totals = {
    'self_attention': (used * self_attention).sum(),
    'cross_attention': (used * cross_attention).sum(),
    'source_projection': skipped_cost.key_value(sizes)
    * (reached * lengths[:, 0]).sum(),
    'feed_forward': skipped_cost.feed_forward(sizes) * used.sum(),
    'propagation': (skipping(sizes, positions, lengths) * skipped).sum(),
    'confidence': confidence,
    'output_embedding': output,
  }
  return contracts.Flops(
    **{name: float(total) / num_tokens for name, total in totals.items()}
  )


def _confidence(sizes, used, positions, cost, exits) -> tuple[float, float]:
  """Sums over all tokens: without the output embedding, and with it."""
  is_token = used > 0
  left_at = used[is_token]
  wrong = ~np.isin(left_at, exits)
  if wrong.any():
    raise errors.DataError(
      f'Tokens may leave after layers {list(exits)} only, but one left after'
      f' layer {left_at[wrong][0]}.'
    )
  place = np.searchsorted(exits, left_at)
  output = cost.output_embedding(sizes, tuple(exits))[place].sum()
  where = np.broadcast_to(positions, used.shape)[is_token]
  # [tokens, E], of which each token takes its exit.
  beside = cost.beside(sizes, tuple(exits), where)
  return float(np.take_along_axis(beside, place[:, None], 1).sum()), float(
    output
  )
