"""Who leaves after a layer: the measure's answer against the thresholds.

    state of a layer --ExitDecision--> the same, with fewer rows undecided

`token_run` asks it after every layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calm_jax import errors
from calm_jax.early_exit.engine import confidence as confidence_lib
from calm_jax.early_exit.engine import decoder_parts, decoder_state, run_if
from calm_jax.early_exit.engine import prediction as prediction_lib


@dataclasses.dataclass(frozen=True)
class ExitDecision:
  """Lets the confident rows of one token leave.

  Attributes:
    parts: of the decoder.
    call: the token; its rows are those that are decided on.
  """

  parts: decoder_parts.DecoderParts
  call: decoder_state.TokenCall

  def __call__(
    self,
    layer: int,
    state: decoder_state.LayerState,
    below: Float[Array, 'rows embed'],
    measured: Any,
  ) -> tuple[decoder_state.LayerState, Any]:
    """Lets confident rows leave, and all of them after the last layer.

    Args:
      layer: 1..L, which has just run.
      state: after it.
      below: the states that went into it.
      measured: what the measure knows of the token from the layers below.

    Returns:
      The state with the results of the rows that leave, and what the measure
      knows now.
    """
    parts, thresholds = self.parts, self.call.thresholds
    is_last = layer == parts.config.num_decoder_layers
    is_exit = layer in parts.exits and layer >= parts.measure.first_layer
    if not (is_exit or is_last or parts.trace):
      return state, measured
    is_early, is_prompt = thresholds < 1.0, self.call.is_prompt
    is_free = is_early if is_prompt is None else is_early & ~is_prompt
    may_leave = state.undecided & (is_last | is_free)
    if not (is_exit or is_last):
      may_leave = jnp.zeros_like(may_leave)
    wanted = state.undecided if parts.trace else may_leave
    if is_prompt is not None and jax.tree.leaves(state.cache.measure_state):
      # What the measure keeps of a prompt may not depend on a row's company.
      wanted |= state.undecided & is_early & is_prompt
    if is_exit or is_last:
      view = self._view(layer, state, below, measured)
      answer = self._measure_if(jnp.any(wanted), view)
    else:
      answer = self._prediction_only(state, measured)
    leaves = may_leave & (is_last | (answer.confidence >= thresholds))
    undefined = wanted & jnp.isnan(answer.confidence)
    result = state.result.replace(
      confidence=jnp.where(leaves, answer.confidence, state.result.confidence),
      num_layers_used=jnp.where(leaves, layer, state.result.num_layers_used),
      num_undefined=state.result.num_undefined + undefined,
      token=jnp.where(leaves, answer.prediction.token, state.result.token),
      log_prob=jnp.where(
        leaves, answer.prediction.log_prob, state.result.log_prob
      ),
    )
    if parts.trace:
      result = _record(result, layer, state.undecided, answer)
    state = state.replace(
      result=result,
      undecided=state.undecided & ~leaves,
      cache=state.cache.replace(measure_state=answer.sequence_state),
    )
    return state, answer.token_state

  def _view(self, layer, state, below, measured):
    parts, call = self.parts, self.call
    is_full_model = call.thresholds >= 1.0
    if call.is_prompt is not None:
      is_full_model |= call.is_prompt
    return confidence_lib.LayerView(
      layer=layer,
      num_layers=parts.config.num_decoder_layers,
      exit_number=parts.exits.index(layer),
      # Rows that have left show what skipped layers see of them.
      hidden=jnp.where(state.undecided[:, None], state.hidden, state.kept),
      previous_hidden=below,
      clock=call.clock,
      rows=call.rows,
      kept_states=None
      if parts.skipped_layers.shows_states
      else state.cache.kept_states,
      is_full_model=is_full_model,
      params=parts.params,
      network=parts.transformer,
      prepared=parts.prepared,
      predict=parts.predict_fn(call),
      token_state=measured,
      sequence_state=state.cache.measure_state,
    )

  def _measure_if(self, condition, view):
    """The measure's answer; zeros where it is not asked for.

    A batch of rows with threshold 1 asks at the last layer only, so the full
    model pays nothing for the possibility of leaving.
    """
    nothing = prediction_lib.Prediction.zeros(view.hidden.shape[0])

    def measure(sequence_state):
      seen = dataclasses.replace(view, sequence_state=sequence_state)
      answer = self._checked(self.parts.measure(seen))
      if answer.prediction is None and self.parts.trace:
        return answer.replace(prediction=view.predict(view.logits()))
      return answer.replace(prediction=answer.prediction or nothing)

    # What is known of the sequence is kept, and what is known of the token. If
    # that changes its shape here, it is not needed: if no row may leave here,
    # none may at a later exit but the last.
    blank = run_if.zeros_like_result(measure, view.sequence_state)
    if _kind(blank.token_state) == _kind(view.token_state):
      blank = blank.replace(token_state=view.token_state)
    return run_if.run_if(
      condition,
      lambda answer: measure(answer.sequence_state),
      blank.replace(sequence_state=view.sequence_state),
    )

  def _checked(
    self, answer: confidence_lib.Measurement
  ) -> confidence_lib.Measurement:
    """The answer; what a measure gets wrong is said before XLA says it."""
    measure, num_rows = self.parts.measure, len(self.call.thresholds)
    name, shape = type(measure).__name__, jnp.shape(answer.confidence)
    if shape != (num_rows,):
      raise errors.ConfigError(
        f'{name} must answer with one confidence for each of {num_rows} rows,'
        f' got the shape {shape}.'
      )
    if measure.predicts and answer.prediction is None:
      raise errors.ConfigError(
        f'{name} has predicts = True, so its answer must have a prediction, as'
        ' view.predict(logits) gives it; got None.'
      )
    start = measure.start_token(self.parts.config, num_rows)
    if jax.tree.leaves(start) and _kind(start) != _kind(answer.token_state):
      raise errors.ConfigError(
        f'{name} must answer with a token_state as its start_token gives it,'
        f' {_kind(start)[1]}, got {_kind(answer.token_state)[1]}.'
      )
    return answer

  def _prediction_only(self, state, measured):
    """For the trace, at a layer without an exit."""
    logits = self.parts.logits(state.hidden)
    prediction = self.parts.predict_fn(self.call)(logits)
    return confidence_lib.Measurement(
      jnp.full_like(prediction.gap, decoder_state.NOT_RUN),
      prediction,
      token_state=measured,
      sequence_state=state.cache.measure_state,
    )


def _kind(tree: Any) -> tuple[Any, list[str]]:
  """Structure of a tree, and its arrays as `int32[8]`."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, [
    f'{jnp.result_type(x)}{list(jnp.shape(x))}' for x in leaves
  ]


def _record(result, layer, undecided, answer):
  at_layer = (slice(None), layer - 1)
  confidences = jnp.where(undecided, answer.confidence, decoder_state.NOT_RUN)
  tokens = jnp.where(undecided, answer.prediction.best, decoder_state.NOT_RUN)
  return result.replace(
    trace_confidences=result.trace_confidences.at[at_layer].set(confidences),
    trace_tokens=result.trace_tokens.at[at_layer].set(tokens),
  )
