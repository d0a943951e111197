"""Text in, text out: a model with its vocabulary, and the layers it used.

    texts --tokenizer--> tokens --models.generate--> tokens --tokenizer--> texts

Serves `calm generate`, the dump and Python users:

    import calm_jax
    model = calm_jax.load('docstrings')
    found = model.generate(['restore: this works well'], threshold=0.9)
    print(found)  # Coloured by layers; a notebook shows it by itself.
    print(found[0].text, found[0].num_layers_used)
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import (
  beam_search,
  continuous_batching,
  data_parallel,
  decoding,
  errors,
  models,
  partitioning,
)
from calm_jax.checkpoints import bundle, shipped
from calm_jax.data import arrays, vocabulary
from calm_jax.display import generations
from calm_jax.early_exit import sampling
from calm_jax.t5 import compute_dtype, network


@dataclasses.dataclass(frozen=True)
class Generation:
  """One generated text.

  Attributes:
    text: the output.
    pieces: its tokens as shown to people, EOS left out. Another token that was
      asked to end the output is shown.
    tokens: their ids.
    num_layers_used: decoder layers of each piece, 1..L.
    confidences: of each piece, at the layer where it left.
    log_prob: natural log-probability of the output, EOS included.
  """

  text: str
  pieces: tuple[str, ...]
  tokens: tuple[int, ...]
  num_layers_used: tuple[int, ...]
  confidences: tuple[float, ...]
  log_prob: float


class TextGenerator:
  """A model that reads and writes text.

  Attributes:
    model: the facade over network, measure and schedule.
    params: its parameters.
    tokenizer: its vocabulary.
    inputs_length: longer inputs are truncated.
    max_decode_length: outputs end here at the latest, unless a call says
      otherwise; each length costs a compilation.
  """

  def __init__(
    self,
    model: models.EncoderDecoderModel,
    params: Any,
    tokenizer: vocabulary.Tokenizer,
    *,
    inputs_length: int = 64,
    max_decode_length: int = 64,
    devices: Sequence[jax.Device] | None = None,
    partitioner: partitioning.PjitPartitioner | None = None,
  ):
    """Puts the parameters on the devices.

    Args:
      model, params, tokenizer, inputs_length, max_decode_length: see above.
      devices: the rows of a batch are divided among them; all local ones if
        None.
      partitioner: where its num_partitions is above 1, the parameters are
        divided among its devices, and `devices` is not looked at.

    Raises:
      DataError: the vocabulary, or a classifier, belongs to another model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
      raise errors.DataError(
        f'The vocabulary {tokenizer.path} has {tokenizer.vocab_size} pieces,'
        f' but the embedding only {model.config.vocab_size} rows; the model'
        ' belongs to another vocabulary.'
      )
    model.measure.check(model.config, params)
    self.model = model
    self._is_divided = (
      partitioner is not None and partitioner.num_partitions > 1
    )
    self._rows = (
      data_parallel.DividedModel(partitioner, model.module)
      if self._is_divided
      else data_parallel.RowDivision(devices or jax.local_devices())
    )
    params = compute_dtype.round_kernels(params, model.config)
    self.params = self._rows.place(params)
    self._prepared = jax.jit(self._prepare)(self.params)
    self.tokenizer = tokenizer
    self.inputs_length = inputs_length
    self.max_decode_length = max_decode_length
    self._generate = jax.jit(
      self._traceable,
      static_argnames=('trace', 'sampler', 'max_decode_length'),
    )
    self._beam_search = jax.jit(
      self._traceable_beams, static_argnames=('num_beams', 'max_decode_length')
    )
    # Compiled programs are kept with it.
    self._continuous_batch = functools.cache(
      functools.partial(continuous_batching.ContinuousBatch, model)
    )
    self._encode = jax.jit(
      lambda params, tokens: model.module.apply(
        {'params': params}, tokens, method='encode'
      )
    )

  def _prepare(self, params):
    prepared = self.model.prepare(params)
    if self._is_divided:
      # The parts of a joined kernel would lie on other devices than the states
      # that they make.
      del prepared['joined']
    return prepared

  def _traceable(self, params, prepared, tokens, thresholds, trace, **drawing):
    rows = {'tokens': tokens, 'thresholds': thresholds}
    for name in ('seeds', 'prompts'):
      if name in drawing:
        rows[name] = drawing.pop(name)
    eos_id = drawing.pop('eos_id')

    def generate(common, rows):
      params, prepared, eos_id = common
      return self.model.generate(
        params,
        rows.pop('tokens'),
        rows.pop('thresholds'),
        prepared=prepared,
        trace=trace,
        eos_id=eos_id,
        **rows,
        **drawing,
      )

    return self._rows.divide(generate)((params, prepared, eos_id), rows)

  def _traceable_beams(self, params, tokens, **options):
    return self.model.beam_search(params, tokens, **options)

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Token rows [texts, inputs_length] of inputs that carry their prefix.

    Raises:
      DataError: a text is empty or no valid Unicode.
    """
    for i, text in enumerate(texts):
      if not text.strip():
        raise errors.DataError(
          f'Every text must hold at least one character; text {i + 1} of'
          f' {len(texts)} is empty.'
        )
    _check_unicode('text', texts)
    rows, cut = arrays.encode_rows(texts, self.tokenizer, self.inputs_length)
    if cut:
      warnings.warn(
        f'{cut} of {len(texts)} texts are longer than {self.inputs_length}'
        ' tokens; the rest of them is ignored.',
        stacklevel=2,
      )
    return arrays.pad_rows(rows, len(rows), self.inputs_length)

  def run_encoder(self, tokens: np.ndarray) -> None:
    """Runs the encoder alone and waits for it: for timing it by itself.

    Args:
      tokens: [batch, inputs_length].
    """
    self._encode(self.params, jnp.asarray(tokens)).block_until_ready()

  def generate_tokens(
    self,
    tokens: np.ndarray,
    thresholds: np.ndarray,
    *,
    trace: bool = False,
    sampler: sampling.Sampler | None = None,
    seeds: np.ndarray | None = None,
    prompts: np.ndarray | None = None,
    eos_id: int = models.EOS_ID,
    max_decode_length: int | None = None,
    batch_size: int | None = None,
  ) -> decoding.DecodeResult:
    """Compiled generation; one program per shape, whatever the thresholds.

    Args:
      tokens: [batch, inputs_length], rows of zeros generate nothing.
      thresholds: [batch] or [batch, grid] in [0, 1].
      trace: whether to record every layer's confidence and best token.
      sampler, seeds, prompts, eos_id: as for
        `models.EncoderDecoderModel.generate`.
      max_decode_length: longest output; the generator's if None.
      batch_size: rows in flight, where one's end makes room for the next; all
        of them if None.

    Returns:
      NumPy arrays, [batch * grid, ...].

    Raises:
      ConfigError: a threshold outside [0, 1], an eos_id that is no token, or
        no length.
      NumericError: the model computes NaN or infinity.
    """
    thresholds = np.asarray(thresholds, np.float32)
    models.check_thresholds(thresholds)
    rows = {
      'tokens': tokens,
      'thresholds': thresholds,
      'seeds': seeds,
      'prompts': prompts,
    }
    rows = {k: np.asarray(x) for k, x in rows.items() if x is not None}
    limits = self._limits(eos_id, max_decode_length)
    options = {'trace': trace}
    if sampler is not None:
      options['sampler'] = sampler
    if batch_size is not None:
      _check_positive('batch_size', batch_size)
    if batch_size is None:
      result = self._one_batch(rows, **options, **limits)
    elif self._rows.num_devices > 1:
      result = self._batches(rows, batch_size, **options, **limits)
    else:
      result = self._queue(rows, batch_size, **options, **limits)
    _check_finite(result.log_probs)
    return result

  def _one_batch(self, rows, **options) -> decoding.DecodeResult:
    # Rows of zeros fill up the last device.
    padded = {k: self._rows.pad(x) for k, x in rows.items()}
    result = self._generate(self.params, self._prepared, **options, **padded)
    result = jax.device_get(result)
    count = rows['thresholds'].size
    return jax.tree.map(lambda x: x[:count], result)

  def _batches(self, rows, batch_size, **options) -> decoding.DecodeResult:
    """One batch after the other, the last one filled up with rows of zeros."""
    count, per_source = len(rows['tokens']), rows['thresholds'][0].size
    size = max(1, batch_size // per_source)
    padded = {k: data_parallel.pad(x, size) for k, x in rows.items()}
    slices = (slice(i, i + size) for i in range(0, count, size))
    results = [
      self._one_batch({k: x[part] for k, x in padded.items()}, **options)
      for part in slices
    ]
    together = jax.tree.map(lambda *x: np.concatenate(x), *results)
    return jax.tree.map(lambda x: x[: count * per_source], together)

  def _queue(
    self, rows, batch_size, eos_id, max_decode_length, **options
  ) -> decoding.DecodeResult:
    """All rows through one batch of slots."""
    per_source = rows['thresholds'][0].size
    by_row = {
      name: x.reshape(-1)
      if name in ('thresholds', 'seeds')
      else np.repeat(x, per_source, axis=0)
      for name, x in rows.items()
    }
    batch = self._continuous_batch(
      batch_size, max_decode_length, eos_id=int(eos_id), **options
    )
    queue = continuous_batching.Queue(**by_row)
    return batch.generate(self.params, self._prepared, queue)

  def _limits(self, eos_id: int, max_decode_length: int | None) -> dict:
    """Where outputs end; raises ConfigError."""
    self.model.check_eos_id(eos_id)
    length = self._length(max_decode_length)
    return {'eos_id': jnp.int32(eos_id), 'max_decode_length': length}

  def _length(self, max_decode_length: int | None) -> int:
    if max_decode_length is None:
      return self.max_decode_length
    _check_positive('max_decode_length', max_decode_length)
    return max_decode_length

  def generate(
    self,
    texts: Sequence[str],
    *,
    threshold: float = 1.0,
    sampler: sampling.Sampler | None = None,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    eos_id: int = models.EOS_ID,
    max_decode_length: int | None = None,
  ) -> generations.Generations:
    """Generates from raw inputs, prefix included.

    Args:
      texts: inputs as the task writes them.
      threshold: a token leaves at the first layer whose confidence reaches
        it; 1 is the full model.
      sampler: draws tokens; the most probable one if None.
      seed: of the draws. A text's output depends on it, not on its neighbours.
      prompts: how each output begins; '' for no prompt.
      eos_id: the token that ends an output.
      max_decode_length: longest output in tokens, prompt and EOS included; the
        generator's if None.

    Returns:
      One generation per text, in a list that shows itself: coloured by layers
      in a notebook and where it is printed on a terminal.

    Raises:
      DataError: a text is empty, or it or its prompt is no valid Unicode.
      ConfigError: the threshold is outside [0, 1], a number of prompts that is
        not that of the texts, a prompt that holds the eos_id or leaves no room,
        an eos_id that is no token, or no length.
    """
    many = self.generate_many(
      texts,
      1,
      threshold=threshold,
      sampler=sampler,
      seed=seed,
      prompts=prompts,
      eos_id=eos_id,
      max_decode_length=max_decode_length,
    )
    return self._shown(decodes[0] for decodes in many)

  def generate_many(
    self,
    texts: Sequence[str],
    num_decodes: int,
    *,
    threshold: float = 1.0,
    sampler: sampling.Sampler | None = None,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    eos_id: int = models.EOS_ID,
    max_decode_length: int | None = None,
    batch_size: int | None = None,
  ) -> list[generations.Generations]:
    """Several draws per text, the most probable first; see `generate`.

    Draw i depends on the seed and on i alone: with more draws the first ones
    are still among them.

    Args:
      batch_size: outputs made side by side, for any number of texts: where one
        ends, the next begins (`continuous_batching`; on several devices there
        are plain batches). All of them if None.

    Raises:
      ConfigError: several draws without a sampler, or a seed that is none.
    """
    if num_decodes < 1 or (num_decodes > 1 and sampler is None):
      raise errors.ConfigError(
        'The number of outputs per text must be at least 1, and more than one'
        f' needs a sampler, such as a temperature; got {num_decodes}.'
      )
    sampling.check_seed(seed)
    if not texts:
      return []
    shape = (len(texts), num_decodes)
    # Far apart, so that draw 1 of seed 0 is not draw 0 of seed 1.
    seeds = (seed + np.arange(num_decodes) * 2654435761) % 2**32
    result = self.generate_tokens(
      self.encode(texts),
      np.full(shape, threshold, np.float32),
      sampler=sampler,
      seeds=None
      if sampler is None
      else np.broadcast_to(seeds.astype(np.uint32), shape),
      prompts=self._prompt_rows(texts, prompts, eos_id, max_decode_length),
      eos_id=eos_id,
      max_decode_length=max_decode_length,
      batch_size=batch_size,
    )
    self._warn_of_undefined(result)
    rows = np.arange(result.tokens.shape[0]).reshape(shape)
    return [
      self._shown(
        self._generation(result, i)
        for i in of_text[_best_first(result, of_text)]
      )
      for of_text in rows
    ]

  def beam_search(
    self,
    texts: Sequence[str],
    num_beams: int,
    *,
    alpha: float = 0.6,
    prompts: Sequence[str] | None = None,
    eos_id: int = models.EOS_ID,
    max_decode_length: int | None = None,
  ) -> list[generations.Generations]:
    """The best outputs that a beam search with the full model finds.

    Args:
      texts: inputs as the task writes them.
      num_beams: sequences kept per text; 1 is greedy decoding.
      alpha: exponent of the length penalty; 0 for none.
      prompts, eos_id, max_decode_length: as for `generate`.

    Returns:
      Generations of each text, the best first: `num_beams` of them, or fewer
      where fewer were found. `log_prob` is the score with its length penalty;
      every piece uses all layers, those of a prompt none, and no confidence is
      measured (NaN).

    Raises:
      ConfigError: no beam, a negative or infinite alpha; as `generate`.
      NumericError: the model computes NaN or infinity.
    """
    length = self._length(max_decode_length)
    beam_search.check_search(num_beams, alpha, length)
    if not texts:
      return []
    options = self._limits(eos_id, length)
    rows = self._prompt_rows(texts, prompts, eos_id, max_decode_length)
    if rows is not None:
      options['prompts'] = rows
    found = self._beam_search(
      self.params,
      jnp.asarray(self.encode(texts)),
      num_beams=num_beams,
      alpha=jnp.float32(alpha),
      **options,
    )
    tokens, scores = jax.device_get(found)
    # The best beam always holds a sequence; others may not.
    _check_finite(np.where(np.isneginf(scores[:, :-1]), 0.0, scores[:, :-1]))
    _check_finite(scores[:, -1])
    sizes = (
      np.zeros(len(texts), int) if rows is None else (rows > 0).sum(axis=1)
    )
    return [
      self._shown(
        self._searched(*beam, size)
        for beam in zip(row[::-1], score[::-1], strict=True)
        if np.isfinite(beam[1])
      )
      for row, score, size in zip(tokens, scores, sizes, strict=True)
    ]

  def _shown(self, found: Iterable[Generation]) -> generations.Generations:
    return generations.Generations(found, self.model.config.num_decoder_layers)

  def _searched(
    self, tokens: np.ndarray, score: float, prompt_size: int
  ) -> Generation:
    shown = np.flatnonzero(tokens > models.EOS_ID)
    used = np.where(
      shown < prompt_size, 0, self.model.config.num_decoder_layers
    )
    return Generation(
      text=self.tokenizer.decode(tokens[shown]),
      pieces=self.tokenizer.pieces(tokens[shown]),
      tokens=tuple(tokens[shown].tolist()),
      num_layers_used=tuple(used.tolist()),
      confidences=(float('nan'),) * len(shown),
      log_prob=float(score),
    )

  def _prompt_rows(
    self, texts, prompts, eos_id, max_decode_length
  ) -> np.ndarray | None:
    if prompts is None:
      return None
    if len(prompts) != len(texts):
      raise errors.ConfigError(
        f'There must be one prompt for each of the {len(texts)} texts, got'
        f' {len(prompts)}.'
      )
    _check_unicode('prompt', prompts)
    # Without their EOS: the model goes on from there.
    rows = [self.tokenizer.encode(prompt) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
      if eos_id in row:
        raise errors.ConfigError(
          f'A prompt must not hold the token {eos_id}'
          f' ({self.tokenizer.piece(eos_id)}), which ends outputs; got'
          f' {prompt!r}.'
        )
    longest, length = max(map(len, rows)), self._length(max_decode_length)
    if longest >= length:
      raise errors.ConfigError(
        f'A prompt must be shorter than the longest output of {length} tokens,'
        f' got {longest}.'
      )
    return np.array([[*row, *[0] * (longest + 1 - len(row))] for row in rows])

  def _warn_of_undefined(self, result) -> None:
    count = int(result.num_undefined.sum())
    if count:
      warnings.warn(
        f'{count} confidences were not a number and let no token leave; the'
        ' measure or the model is damaged.',
        stacklevel=4,
      )

  def _generation(self, result, row: int) -> Generation:
    tokens = result.tokens[row]
    shown = np.flatnonzero(tokens > models.EOS_ID)
    return Generation(
      text=self.tokenizer.decode(tokens[shown]),
      pieces=self.tokenizer.pieces(tokens[shown]),
      tokens=tuple(tokens[shown].tolist()),
      num_layers_used=tuple(result.num_layers_used[row][shown].tolist()),
      confidences=tuple(result.confidences[row][shown].tolist()),
      log_prob=float(result.log_probs[row]),
    )


def _check_positive(name: str, number: int) -> None:
  if type(number) is not int or number < 1:
    raise errors.ConfigError(
      f'{name} must be an integer of at least 1, got {number!r}.'
    )


def _check_unicode(what: str, texts: Sequence[str]) -> None:
  """Raises DataError for lone surrogates: bytes that were not UTF-8."""
  for i, text in enumerate(texts):
    if any('\ud800' <= x <= '\udfff' for x in text):
      raise errors.DataError(
        f'Every {what} must be valid Unicode; {what} {i + 1} of {len(texts)}'
        ' holds bytes that were not UTF-8.'
      )


def _check_finite(log_probs: np.ndarray) -> None:
  if not np.isfinite(log_probs).all():
    raise errors.NumericError(
      'The model computes log-probabilities that are not finite; its'
      ' parameters are damaged or its training diverged.'
    )


def _best_first(result, rows: np.ndarray) -> np.ndarray:
  return np.argsort(-result.log_probs[rows], kind='stable')


def load(
  path: str | os.PathLike | None = None, **model_kwargs
) -> TextGenerator:
  """Loads a finished model's folder, the one that ships with calm_jax if None.

  Args:
    path: a folder that `calm export` wrote, or the name of a shipped model, as
      'docstrings'.
    **model_kwargs: for `EncoderDecoderModel`, such as another measure.

  Raises:
    DataError: there is no such model (the message lists those that ship), or
      it is damaged.
  """
  found = bundle.load_bundle(shipped.resolve(path))
  if found.info.output_length:
    model_kwargs.setdefault(
      'output_length', decoding.ProportionalLength(**found.info.output_length)
    )
  return TextGenerator(
    models.EncoderDecoderModel(
      network.Transformer(found.config), **model_kwargs
    ),
    found.params,
    vocabulary.Tokenizer(found.vocabulary_path),
    inputs_length=found.info.feature_lengths['inputs'],
    max_decode_length=found.info.feature_lengths['targets'],
  )
