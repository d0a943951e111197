"""The T5 encoder-decoder with T5X's classes, parameter tree and axis names.

Tokens enter, hidden states or logits leave. A whole-sequence route serves
training and scoring (`Transformer.__call__`, `decode_all_layers`); the methods
that end in `_step` or start with `project_` are the pieces of incremental
decoding, which `calm_jax.early_exit` puts together one layer at a time.

T5 1.0: `mlp_activations=('relu',)`, `logits_via_embedding=True`.
T5 1.1: `mlp_activations=('gelu', 'linear')`, `logits_via_embedding=False`.
"""

from collections.abc import Sequence

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from calm_jax import errors
from calm_jax.t5 import attention, layers, masks, remat
from calm_jax.t5 import rows as rows_lib


@gin.configurable
@struct.dataclass
class T5Config:
  """Sizes and options of a T5 network; field names are T5X's.

  Attributes:
    vocab_size: rows of the embedding.
    dtype: type of the activations; parameters and logits are float32.
    emb_dim: width of the hidden states (d_model).
    num_heads: attention heads of each attention.
    num_encoder_layers: encoder layers.
    num_decoder_layers: decoder layers, called 1..L in results.
    head_dim: width of one head (d_kv).
    mlp_dim: width of the feed-forward block (d_ff).
    mlp_activations: one activation, or several that gate each other.
    dropout_rate: used where a call enables dropout.
    logits_via_embedding: whether the token embedding is the output embedding
      too (its logits are then scaled by 1/sqrt(emb_dim)).
    float32_attention_logits: compute attention logits in float32.
    relative_attention_num_buckets: position biases of each head. T5's 32 hold
      distances up to 7 (decoder: 15) apart, and blur greater ones.
    relative_attention_max_distance: from which on all share the last bucket.

  Raises:
    ConfigError: when made, if dtype is neither float32 nor bfloat16.
  """

  vocab_size: int
  dtype: jnp.dtype = jnp.float32
  emb_dim: int = 512
  num_heads: int = 6
  num_encoder_layers: int = 8
  num_decoder_layers: int = 8
  head_dim: int = 64
  mlp_dim: int = 1024
  mlp_activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  float32_attention_logits: bool = False
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128

  def __post_init__(self):
    if self.dtype not in _DTYPES:
      raise errors.ConfigError(
        "A network's dtype must be 'float32' or 'bfloat16', got"
        f" {self.dtype!r}. T5's masks and feed-forward states go beyond the"
        ' range of float16 and end in NaN.'
      )


# As words, NumPy's and JAX's types.
_DTYPES = (
  *('float32', 'bfloat16'),
  *(jnp.dtype('float32'), jnp.dtype('bfloat16')),
  *(jnp.float32, jnp.bfloat16, np.float32),
)


def _attention(config: T5Config) -> attention.MultiHeadDotProductAttention:
  return attention.MultiHeadDotProductAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    emb_dim=config.emb_dim,
    dtype=config.dtype,
    dropout_rate=config.dropout_rate,
    float32_logits=config.float32_attention_logits,
  )


def _position_biases(
  config: T5Config, bidirectional: bool
) -> layers.RelativePositionBiases:
  return layers.RelativePositionBiases(
    config.num_heads,
    bidirectional,
    config.dtype,
    config.relative_attention_num_buckets,
    config.relative_attention_max_distance,
  )


def _mlp(config: T5Config) -> layers.MlpBlock:
  return layers.MlpBlock(
    intermediate_dim=config.mlp_dim,
    activations=config.mlp_activations,
    dropout_rate=config.dropout_rate,
    dtype=config.dtype,
  )


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward block, each behind a layer norm."""

  config: T5Config

  def setup(self):
    self.pre_attention_layer_norm = layers.LayerNorm(self.config.dtype)
    self.attention = _attention(self.config)
    self.pre_mlp_layer_norm = layers.LayerNorm(self.config.dtype)
    self.mlp = _mlp(self.config)
    self.dropout = layers.Dropout(self.config.dropout_rate)

  def __call__(self, inputs, bias, *, enable_dropout):
    # [batch, source, embed] -> [batch, source, embed]
    hidden = self.pre_attention_layer_norm(inputs)
    hidden = self.attention(hidden, hidden, bias, enable_dropout=enable_dropout)
    hidden = inputs + self.dropout(hidden, enable_dropout)
    mlp = self.mlp(
      self.pre_mlp_layer_norm(hidden), enable_dropout=enable_dropout
    )
    return hidden + self.dropout(mlp, enable_dropout)


class Encoder(nn.Module):
  """A stack of encoder layers over shared relative position biases."""

  config: T5Config
  remat_policy: str = remat.NONE

  def setup(self):
    config = self.config
    self.relpos_bias = _position_biases(config, bidirectional=True)
    self.layers = [
      EncoderLayer(config) for _ in range(config.num_encoder_layers)
    ]
    self.encoder_norm = layers.LayerNorm(config.dtype)
    self.dropout = layers.Dropout(config.dropout_rate)

  def __call__(self, embedded, mask, *, enable_dropout):
    # [batch, source, embed] -> [batch, source, embed]
    length = embedded.shape[1]
    bias = self.relpos_bias(length, length)
    bias = bias + masks.mask_to_bias(mask, self.config.dtype)
    hidden = self.dropout(embedded, enable_dropout)
    for layer in self.layers:
      hidden = remat.run_layer(
        self.remat_policy, layer, hidden, bias, enable_dropout=enable_dropout
      )
    return self.dropout(self.encoder_norm(hidden), enable_dropout)


class DecoderLayer(nn.Module):
  """Self-attention, cross-attention and feed-forward block."""

  config: T5Config

  def setup(self):
    self.pre_self_attention_layer_norm = layers.LayerNorm(self.config.dtype)
    self.self_attention = _attention(self.config)
    self.pre_cross_attention_layer_norm = layers.LayerNorm(self.config.dtype)
    self.encoder_decoder_attention = _attention(self.config)
    self.pre_mlp_layer_norm = layers.LayerNorm(self.config.dtype)
    self.mlp = _mlp(self.config)
    self.dropout = layers.Dropout(self.config.dropout_rate)

  def __call__(self, inputs, encoded, bias, cross_bias, *, enable_dropout):
    # [batch, target, embed], [batch, source, embed] -> [batch, target, embed]
    hidden = self.pre_self_attention_layer_norm(inputs)
    hidden = self.self_attention(
      hidden, hidden, bias, enable_dropout=enable_dropout
    )
    hidden = inputs + self.dropout(hidden, enable_dropout)
    cross = self.encoder_decoder_attention(
      self.pre_cross_attention_layer_norm(hidden),
      encoded,
      cross_bias,
      enable_dropout=enable_dropout,
    )
    hidden = hidden + self.dropout(cross, enable_dropout)
    mlp = self.mlp(
      self.pre_mlp_layer_norm(hidden), enable_dropout=enable_dropout
    )
    return hidden + self.dropout(mlp, enable_dropout)

  def project_self(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Self-attention keys and values of hidden states entering this layer.

    This is also how a layer that was skipped learns about a token: from the
    state in which the token left, through this layer's own norm and kernels
    (CALM Sec. 3.3.1).

    Args:
      hidden: [batch, length, embed], states below this layer.

    Returns:
      keys [batch, heads, head_dim, length], values [batch, heads, length,
      head_dim].
    """
    normalized = self.pre_self_attention_layer_norm(hidden)
    return self.self_attention.project_key_value(normalized)

  def project_token(
    self, hidden: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Self-attention query, key and value of one token per row.

    Args:
      hidden: [batch, embed], the state below this layer.

    Returns:
      As `attention.MultiHeadDotProductAttention.project_token`.
    """
    return self.self_attention.project_token(
      self.pre_self_attention_layer_norm(hidden)
    )

  def project_cross(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-attention keys and values: [batch, source, embed] -> as above."""
    return self.encoder_decoder_attention.project_key_value(encoded)

  def block(
    self, hidden, query, cached_key, cached_value, bias, cross_key, cross_value,
    cross_bias, rows: rows_lib.Rows | None = None,
  ):  # fmt: skip
    """Runs the layer for some queries, each against the caches of its row.

    One query per row is a step of decoding. Several are positions whose keys
    the cache must hold before: each sees what its own bias lets it see.

    Args:
      hidden: [queries, embed], the states below this layer.
      query: [queries, heads, head_dim], from `project_token`.
      cached_key: [batch, heads, head_dim, length], holding the positions of the
        queries too.
      cached_value: [batch, heads, length, head_dim], likewise.
      bias: [queries, heads, length], position bias and mask of each query.
      cross_key: [batch, heads, head_dim, source].
      cross_value: [batch, heads, source, head_dim].
      cross_bias: [batch, 1, source].
      rows: the row of the batch that each query belongs to; one query for each
        row if None.

    Returns:
      [queries, embed].
    """
    hidden = hidden + self.self_attention.attend_cached(
      query, cached_key, cached_value, bias, rows
    )
    crossing = self.encoder_decoder_attention
    crossed = crossing.attend_cached(
      crossing.project_query(self.pre_cross_attention_layer_norm(hidden)),
      cross_key,
      cross_value,
      cross_bias if rows is None else rows.take(cross_bias),
      rows,
    )
    hidden = hidden + crossed
    return hidden + self.mlp(self.pre_mlp_layer_norm(hidden))


class Decoder(nn.Module):
  """A stack of decoder layers, the final norm and the output embedding."""

  config: T5Config
  token_embedder: layers.Embed
  remat_policy: str = remat.NONE

  def setup(self):
    config = self.config
    self.relpos_bias = _position_biases(config, bidirectional=False)
    self.layers = [
      DecoderLayer(config) for _ in range(config.num_decoder_layers)
    ]
    self.decoder_norm = layers.LayerNorm(config.dtype)
    self.dropout = layers.Dropout(config.dropout_rate)
    if not config.logits_via_embedding:
      self.logits_dense = layers.Dense(
        config.vocab_size, ('embed', 'vocab'), jnp.float32
      )

  def __call__(self, embedded, encoded, mask, cross_mask, *, enable_dropout):
    # [batch, target, embed] -> [layers, batch, target, embed]
    length = embedded.shape[1]
    bias = self.relpos_bias(length, length)
    bias = bias + masks.mask_to_bias(mask, self.config.dtype)
    cross_bias = masks.mask_to_bias(cross_mask, self.config.dtype)
    hidden = self.dropout(embedded, enable_dropout)
    states = []
    for layer in self.layers:
      hidden = remat.run_layer(
        self.remat_policy, layer, hidden, encoded, bias, cross_bias,
        enable_dropout=enable_dropout,
      )  # fmt: skip
      states.append(hidden)
    return jnp.stack(states)

  def logits(self, hidden: jax.Array, *, enable_dropout: bool) -> jax.Array:
    # [..., embed] -> [..., vocab]
    hidden = self.dropout(self.decoder_norm(hidden), enable_dropout)
    if not self.config.logits_via_embedding:
      return self.logits_dense(hidden)
    return self._scaled(self.token_embedder.attend(hidden))

  def output_columns(self, ids: jax.Array) -> jax.Array:
    # [batch, candidates] -> [batch, candidates, embed]
    if self.config.logits_via_embedding:
      return self.token_embedder.embedding[ids]
    kernel = self.logits_dense.get_variable('params', 'kernel')
    return jnp.moveaxis(kernel[:, ids], 0, -1)

  def logits_of_columns(self, hidden, columns):
    # [batch, embed], [batch, candidates, embed] -> [batch, candidates]
    hidden = self.decoder_norm(hidden).astype(columns.dtype)
    logits = jnp.einsum('be,bce->bc', hidden, columns)
    if not self.config.logits_via_embedding:
      return logits
    return self._scaled(logits)

  def _scaled(self, logits: jax.Array) -> jax.Array:
    # Tied embeddings are drawn with unit variance: bring the logits back to it.
    return logits / jnp.sqrt(self.config.emb_dim)


class Transformer(nn.Module):
  """T5: the network whose checkpoints T5X writes and reads.

  Attributes:
    config: sizes.
    remat_policy: what training keeps for the backward pass (`remat`); T5X has
      it among the sizes, but it changes no result.
  """

  config: T5Config
  remat_policy: str = remat.NONE

  def setup(self):
    config = self.config
    self.token_embedder = layers.Embed(
      config.vocab_size, config.emb_dim, config.dtype
    )
    self.encoder = Encoder(config, self.remat_policy)
    self.decoder = Decoder(config, self.token_embedder, self.remat_policy)

  def encode(
    self,
    encoder_input_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    *,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Encodes source tokens: [batch, source] -> [batch, source, embed]."""
    mask = masks.encoder_mask(encoder_input_tokens, encoder_segment_ids)
    embedded = self.token_embedder(encoder_input_tokens)
    return self.encoder(embedded, mask, enable_dropout=enable_dropout)

  def decode_all_layers(
    self,
    encoded: jax.Array,
    encoder_input_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    decoder_segment_ids: jax.Array | None = None,
    *,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Teacher-forced hidden states of every decoder layer.

    Args:
      encoded: [batch, source, embed], from `encode`.
      encoder_input_tokens: [batch, source]; 0 is padding.
      decoder_input_tokens: [batch, target], the targets shifted right.
      decoder_target_tokens: [batch, target]; 0 is padding.
      encoder_segment_ids: [batch, source], for packed rows.
      decoder_segment_ids: [batch, target], for packed rows.
      enable_dropout: whether to drop (rng stream `dropout`).

    Returns:
      [layers, batch, target, embed], before the final norm, which
      `logits_from_hidden` applies.
    """
    mask = masks.decoder_mask(decoder_target_tokens, decoder_segment_ids)
    cross_mask = masks.encoder_decoder_mask(
      decoder_target_tokens,
      encoder_input_tokens,
      decoder_segment_ids,
      encoder_segment_ids,
    )
    embedded = self.token_embedder(decoder_input_tokens)
    return self.decoder(
      embedded, encoded, mask, cross_mask, enable_dropout=enable_dropout
    )

  def logits_from_hidden(
    self, hidden: jax.Array, *, enable_dropout: bool = False
  ) -> jax.Array:
    """Logits of hidden states of any decoder layer: the final norm and the
    output embedding are shared by all of them (CALM Sec. 3.2).

    Args:
      hidden: [..., embed].
      enable_dropout: whether to drop (rng stream `dropout`).

    Returns:
      [..., vocab], float32.
    """
    return self.decoder.logits(hidden, enable_dropout=enable_dropout)

  def output_columns(self, ids: jax.Array) -> jax.Array:
    """Columns of the output embedding: [...] ids -> [..., embed]."""
    return self.decoder.output_columns(ids)

  def logits_of_columns(
    self, hidden: jax.Array, columns: jax.Array
  ) -> jax.Array:
    """Logits of a few tokens per row, as `logits_from_hidden` gives them.

    Args:
      hidden: [batch, embed], above any decoder layer.
      columns: [batch, candidates, embed], from `output_columns`.

    Returns:
      [batch, candidates], float32.
    """
    return self.decoder.logits_of_columns(hidden, columns)

  def __call__(
    self,
    encoder_input_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    decoder_segment_ids: jax.Array | None = None,
    *,
    enable_dropout: bool = True,
  ) -> jax.Array:
    """Teacher-forced logits of the full model: -> [batch, target, vocab]."""
    encoded = self.encode(
      encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
    )
    states = self.decode_all_layers(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      enable_dropout=enable_dropout,
    )
    return self.logits_from_hidden(states[-1], enable_dropout=enable_dropout)

  def embed(self, token_ids: jax.Array) -> jax.Array:
    """Token embeddings: [...] -> [..., embed]."""
    return self.token_embedder(token_ids)

  def decoder_position_bias(self, length: int) -> jax.Array:
    """Self-attention position bias: -> [heads, query, key], causal ones too."""
    return self.decoder.relpos_bias(length, length)[0]
