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

from calm_jax.decode import beam_search, checks, decode_fns
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
    eos_id: the token that ends an output; None only while the arrays of all
      sources are mapped.
    max_decode_steps: [sources], most tokens after the prompt, or None.
    max_decode_length: longest output in tokens, prompt and EOS included.
    decode_fn: how tokens are chosen.
    trace: whether to record every layer's confidence and best token.
  """

  encoder_input_tokens: Int[Array, 'sources source']
  thresholds: Float[Array, 'sources *rows']
  seeds: UInt32[Array, 'sources *rows'] | None
  prompts: Int[Array, 'sources prompt'] | None
  eos_id: int | Int[Array, ''] | None
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
    thresholds: 1, the full model, for each source if None. NaN that is traced
      acts as 1.
    vocab_size: of the model.
    prompts: end before their first EOS or 0; what follows is dropped.
    max_decode_steps: one for all sources, or [sources].
    encoder_input_tokens, max_decode_length, seeds, eos_id, decode_fn, trace: as
      the attributes of `DecodeRequest`.

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
  checks.check_rows(tokens, thresholds, seeds, prompts)
  checks.check_thresholds(thresholds)
  checks.check_positive('max_decode_length', max_decode_length)
  checks.check_eos_id(eos_id, vocab_size)
  checks.check_decode_fn(decode_fn, thresholds, seeds, trace, max_decode_length)
  if max_decode_steps is not None:
    max_decode_steps = jnp.broadcast_to(max_decode_steps, len(tokens))
  return DecodeRequest(
    encoder_input_tokens=tokens,
    thresholds=thresholds,
    seeds=seeds,
    prompts=prompts_lib.checked(prompts, eos_id, max_decode_length),
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


def _as_array(values, dtype=None):
  return values if isinstance(values, jax.Array) else np.asarray(values, dtype)
