"""DecodeRequest: all that a caller asks of a decoding, checked once.

    tokens, thresholds, ... --make--> DecodeRequest --model--> DecodeResult

A model makes it (`model.EncoderDecoderModel.request`), and it reaches the token
loop unchanged. Its arrays are data of a compiled program; its other choices
decide which program runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from calm_jax import errors
from calm_jax.decode import beam_search, decode_fns
from calm_jax.decode import prompts as prompts_lib
from calm_jax.early_exit.engine import sampling

EOS_ID = 1


@struct.dataclass
class DecodeRequest:
  """What a caller asks of a decoding; from `make`, which checks it.

  Arrays are of NumPy or JAX, and may be traced.

  Attributes:
    encoder_input_tokens: [sources, source]; rows of zeros generate nothing.
    thresholds: [sources] or [sources, rows] in [0, 1]. Several rows for one
      source cost one encoding of it; of a beam search they are the beams.
    seeds: of the thresholds' shape, for a sampler: a row's draws depend on its
      own seed, not on its place in the batch. None without a sampler.
    prompts: [sources, prompt] tokens that outputs start with, 0 after them, or
      None. The full model reads them.
    eos_id: the token that ends an output.
    max_decode_steps: [sources], most tokens after the prompt, or None.
    max_decode_length: longest output in tokens, prompt and EOS included.
    decode_fn: how tokens are chosen.
    trace: whether to record every layer's confidence and best token.
  """

  encoder_input_tokens: Int[Array, 'sources source']
  thresholds: Float[Array, 'sources *rows']
  seeds: UInt32[Array, 'sources *rows'] | None
  prompts: Int[Array, 'sources prompt'] | None
  eos_id: int | Int[Array, '']
  max_decode_steps: Int[Array, ' sources'] | None
  max_decode_length: int = struct.field(pytree_node=False)
  decode_fn: decode_fns.DecodeFn = struct.field(pytree_node=False)
  trace: bool = struct.field(pytree_node=False)

  @property
  def num_sources(self) -> int:
    return self.encoder_input_tokens.shape[0]

  @property
  def rows_per_source(self) -> int:
    return math.prod(self.thresholds.shape[1:])

  @property
  def num_rows(self) -> int:
    return self.num_sources * self.rows_per_source

  @property
  def sampler(self) -> sampling.Sampler | None:
    return self.decode_fn if self.seeds is not None else None

  @property
  def has_beams(self) -> bool:
    return isinstance(self.decode_fn, beam_search.BeamSearch)

  @property
  def is_padding(self) -> Bool[Array, ' sources']:
    """Sources of zeros, which fill up a batch."""
    return jnp.all(self.encoder_input_tokens == 0, axis=-1)

  def map_rows(self, function: Callable[[Any], Any]) -> 'DecodeRequest':
    """The request with each [sources, ...] array replaced."""
    by_row = self.replace(eos_id=None)
    return jax.tree.map(function, by_row).replace(eos_id=self.eos_id)

  def by_row(self) -> 'DecodeRequest':
    """The same with a source of its own for each row: [sources * rows, ...]."""

    def repeated(array):
      return array.repeat(self.rows_per_source, axis=0)

    return self.map_rows(repeated).replace(
      thresholds=self.thresholds.reshape(-1),
      seeds=None if self.seeds is None else self.seeds.reshape(-1),
    )


def make(
  encoder_input_tokens: Any,
  thresholds: Any = None,
  *,
  vocab_size: int,
  max_decode_length: int,
  seeds: Any = None,
  prompts: Any = None,
  eos_id: int | jax.Array = EOS_ID,
  max_decode_steps: int | jax.Array | None = None,
  decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
  trace: bool = False,
) -> DecodeRequest:
  """A request whose parts belong together; values that are traced pass.

  Args:
    encoder_input_tokens, max_decode_length, decode_fn, trace, seeds: as of
      `DecodeRequest`.
    thresholds: likewise; 1, the full model, for each source if None. NaN that
      is traced acts as 1.
    vocab_size: of the model.
    prompts: likewise, but they may go on after their first EOS or 0.
    eos_id: the token that ends an output.
    max_decode_steps: most tokens after the prompt, one for all or [sources].

  Raises:
    ConfigError: arrays that do not belong together, a number out of range, a
      sampler without seeds, prompts that are wider than an output, or a beam
      search that may leave early.
  """
  tokens = _as_array(encoder_input_tokens)
  if thresholds is None:
    thresholds = np.ones(len(tokens))
  thresholds = _as_array(thresholds, np.float32)
  seeds = None if seeds is None else _as_array(seeds)
  prompts = None if prompts is None else _as_array(prompts)
  _check_rows(tokens, thresholds, seeds, prompts)
  check_thresholds(thresholds)
  check_positive('max_decode_length', max_decode_length)
  _check_eos_id(eos_id, vocab_size)
  _check_decode_fn(decode_fn, thresholds, seeds, trace)
  if isinstance(decode_fn, beam_search.BeamSearch):
    beam_search.check_alpha(decode_fn.alpha, max_decode_length)
  if max_decode_steps is not None:
    max_decode_steps = jnp.broadcast_to(max_decode_steps, len(tokens))
  return DecodeRequest(
    encoder_input_tokens=tokens,
    thresholds=thresholds,
    seeds=seeds,
    prompts=_checked_prompts(prompts, eos_id, max_decode_length),
    eos_id=eos_id,
    max_decode_steps=max_decode_steps,
    max_decode_length=max_decode_length,
    decode_fn=decode_fn,
    trace=trace,
  )


def row_seeds(rng: jax.Array, num_rows: int, num_decodes: int) -> jax.Array:
  """uint32 [rows, decodes], each a function of the key, its row and decode.

  So a row's first decodes stay the same when more of them are asked for, and
  when rows are added behind it.
  """

  def seed(row, decode):
    key = jax.random.fold_in(jax.random.fold_in(rng, row), decode)
    return jax.random.bits(key, (), jnp.uint32)

  of_row = jax.vmap(seed, (None, 0))
  return jax.vmap(of_row, (0, None))(
    jnp.arange(num_rows), jnp.arange(num_decodes)
  )


def check_thresholds(thresholds: float | np.ndarray | jax.Array) -> None:
  """Raises ConfigError unless all are in [0, 1]; traced ones pass."""
  if isinstance(thresholds, jax.core.Tracer):
    return
  values = np.asarray(thresholds)
  if not ((values >= 0) & (values <= 1)).all():
    raise errors.ConfigError(
      f'Thresholds must be in [0, 1], got {values.reshape(-1).tolist()}; 1 is'
      ' the full model.'
    )


def check_num_decodes(num_decodes: int, decode_fn: decode_fns.DecodeFn) -> None:
  """Raises ConfigError for no outputs, or several that would be the same."""
  if type(num_decodes) is not int or num_decodes < 1:
    raise errors.ConfigError(
      'The number of outputs or beams per source must be an integer of at least'
      f' 1, got {num_decodes!r}.'
    )
  if num_decodes > 1 and isinstance(decode_fn, decode_fns.Greedy):
    raise errors.ConfigError(
      'More than one output per source needs a sampler, such as a temperature,'
      f' or a beam search, got {num_decodes}: greedy outputs are all the same.'
    )


def check_positive(name: str, number: int) -> None:
  """Raises ConfigError unless it is an integer of at least 1."""
  if type(number) is not int or number < 1:
    raise errors.ConfigError(
      f'{name} must be an integer of at least 1, got {number!r}.'
    )


def _as_array(values, dtype=None):
  return values if isinstance(values, jax.Array) else np.asarray(values, dtype)


def _check_rows(tokens, thresholds, seeds, prompts) -> None:
  """Raises ConfigError unless the arrays are of the same sources."""
  if thresholds.shape[:1] != tokens.shape[:1] or (
    seeds is not None and seeds.shape != thresholds.shape
  ):
    given = 'no' if seeds is None else seeds.shape
    raise errors.ConfigError(
      'There must be one row of thresholds for each source, and one seed for'
      f' each threshold, got {tokens.shape} tokens, {thresholds.shape}'
      f' thresholds and {given} seeds.'
    )
  if prompts is not None and len(prompts) != len(tokens):
    raise errors.ConfigError(
      f'There must be one row of prompts for each source, got {len(prompts)}'
      f' for {len(tokens)}.'
    )


def _check_eos_id(eos_id, vocab_size: int) -> None:
  """Raises ConfigError unless it is a token other than padding."""
  if isinstance(eos_id, jax.core.Tracer):
    return
  if not 0 < eos_id < vocab_size:
    raise errors.ConfigError(
      f'eos_id must be from 1 to {vocab_size - 1}, a token of the vocabulary'
      f' other than the start symbol and padding 0, got {eos_id}.'
    )


def _check_decode_fn(decode_fn, thresholds, seeds, trace) -> None:
  """Raises ConfigError unless the others are what it needs."""
  if isinstance(decode_fn, sampling.Sampler) != (seeds is not None):
    raise errors.ConfigError(
      'A sampler needs a seed for every row, and nothing else takes seeds; got'
      f' {"no" if seeds is None else "some"} seeds for {decode_fn}.'
    )
  if not isinstance(decode_fn, beam_search.BeamSearch):
    return
  is_traced = isinstance(thresholds, jax.core.Tracer)
  if trace or is_traced or np.any(np.asarray(thresholds) < 1):
    raise errors.ConfigError(
      'A beam search is for the full model alone: scores of different layers'
      ' cannot be compared. Leave out the threshold and the trace, got the'
      f' thresholds {thresholds}.'
    )


def _checked_prompts(prompts, eos_id, max_decode_length: int):
  """Prompts up to their end; None for no columns.

  Raises:
    ConfigError: they are wider than an output.
  """
  if prompts is None or prompts.shape[1] == 0:
    return None
  if prompts.shape[1] > max_decode_length:
    raise errors.ConfigError(
      f'Prompts must be at most as wide as the longest output of'
      f' {max_decode_length} tokens, got {prompts.shape[1]} columns; leave out'
      ' columns of padding, or raise max_decode_length.'
    )
  return prompts_lib.up_to_end(prompts, eos_id)
