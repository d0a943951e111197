"""One token through the layers that it needs; packs of rows on the way.

    token --layer 1--> state --ExitDecision--> ... --layer k--> state

Below `layer_loop`, which says what a token's call shares and keeps.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from calm_jax.early_exit.engine import (
  decoder_parts,
  decoder_state,
  exit_decision,
  layer_entry,
  packing,
  run_if,
)

# A pack reads the weights once more, so most of a batch is run as a whole. The
# share is a guess that was not measured.
_LARGEST_PACKED_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class TokenRun:
  """One token of each row on its way up.

  Attributes:
    parts: of the decoder.
    call: what all layers of the token share; its rows are those that run.
  """

  parts: decoder_parts.DecoderParts
  call: decoder_state.TokenCall

  def __call__(
    self,
    token: Int[Array, ' batch'],
    undecided: Bool[Array, ' batch'],
    cache: decoder_state.DecoderCache,
  ) -> decoder_state.LayerState:
    """The layers that the token needs; arguments as for the decoder."""
    parts = self.parts
    embedded = parts.transformer(token, method='embed')
    state = decoder_state.LayerState(
      hidden=embedded,
      kept=embedded,
      undecided=undecided,
      result=decoder_state.TokenResult.empty(
        token.shape[0], parts.config.num_decoder_layers if parts.trace else 0
      ),
      cache=cache,
    )
    measured = parts.measure.start_token(parts.config, token.shape[0])
    return self._run_from(1, state, measured)

  def _run_from(self, layer, state, measured):
    """Runs `layer` and, while a row is undecided, the layers above it.

    `measured` is the measure's state of this token. No layer below needs it
    back, so its shape may change from layer to layer.
    """
    state, measured = self._run_undecided(layer, state, measured)
    if layer == self.parts.config.num_decoder_layers:
      return state
    return run_if.run_if(
      jnp.any(state.undecided),
      lambda s: self._run_from(layer + 1, s, measured),
      state,
    )

  def _run_undecided(self, layer, state, measured):
    """Runs one layer on the whole batch, or on packs where few rows need it."""
    batch_size = state.undecided.shape[0]
    if batch_size == 1 or not self.parts.rows_per_pack:
      return self._run_and_decide(layer, state, measured)
    whole = jnp.sum(state.undecided) > _LARGEST_PACKED_SHARE * batch_size
    in_packs = state.undecided & ~whole
    _, answered = run_if.zeros_like_result(
      lambda: self._run_and_decide(layer, state, measured)
    )
    state, answered = run_if.run_if(
      whole,
      lambda both: self._run_and_decide(layer, both[0], measured),
      (state, answered),
    )
    return self._run_packs(layer, state, in_packs, measured, answered)

  def _run_packs(self, layer, state, active, measured, answered):
    """`_run_and_decide` on the active rows; the others' `answered` stays."""

    def run_pack(by_row, cache, rows):
      pack, _ = by_row
      is_row = jnp.arange(rows.ids.shape[0]) < rows.count
      pack = pack.replace(undecided=pack.undecided & is_row, cache=cache)
      of_pack = dataclasses.replace(self, call=self.call.of_rows(rows))
      pack, answered = of_pack._run_and_decide(layer, pack, rows.take(measured))
      return (pack.replace(cache=None), answered), pack.cache

    (rows, answered), cache = packing.map_active_rows(
      run_pack,
      active,
      (state.replace(cache=None), answered),
      state.cache,
      rows_per_pack=self.parts.rows_per_pack,
    )
    return rows.replace(cache=cache), answered

  def _run_and_decide(self, layer, state, measured):
    parts, below = self.parts, state.hidden
    entry = layer_entry.LayerEntry(
      number=layer,
      num_layers=parts.config.num_decoder_layers,
      first_exit=parts.exits[0],
      method=functools.partial(parts.layer, layer - 1),
      measure=parts.measure,
      params=parts.params,
      call=self.call,
    )
    state = parts.skipped_layers.enter(entry, state)
    decide = exit_decision.ExitDecision(parts, self.call)
    return decide(layer, state, below, measured)
