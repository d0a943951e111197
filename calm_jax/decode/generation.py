"""Text in, text out: a model with its vocabulary, and the layers it used.

    texts --text_request--> DecodeRequest --answer--> Generations

`calm generate`, `calm infer` and the dump use it, and so may you:

    import calm_jax
    model = calm_jax.load('docstrings')
    found = model.generate(['restore: this works well'], threshold=0.9)
    print(found)  # Coloured by layers; a notebook shows it by itself.
    print(found[0].text, found[0].num_layers_used)
"""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from calm_jax import errors
from calm_jax.checkpoints import bundle, shipped
from calm_jax.data import text_rows, vocabulary
from calm_jax.decode import (
  beam_search,
  checks,
  decode_fns,
  lengths,
  token_generator,
)
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.display import generations
from calm_jax.early_exit.engine import sampling
from calm_jax.parallel import partitioning
from calm_jax.t5 import network


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


class TextGenerator(token_generator.TokenGenerator):
  """A model that reads and writes text.

  Attributes: those of `TokenGenerator`, and
    tokenizer: its vocabulary.
    inputs_length: longer inputs are truncated.
  """

  def __init__(
    self,
    model: model_lib.EncoderDecoderModel,
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
      tokenizer, inputs_length: see above.
      model, params, max_decode_length, devices, partitioner: as for
        `TokenGenerator`.

    Raises:
      DataError: the vocabulary, or a classifier, belongs to another model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
      raise errors.DataError(
        f'The vocabulary {tokenizer.path} has {tokenizer.vocab_size} pieces,'
        f' but the embedding only {model.config.vocab_size} rows; the model'
        ' belongs to another vocabulary.'
      )
    super().__init__(
      model,
      params,
      max_decode_length=max_decode_length,
      devices=devices,
      partitioner=partitioner,
    )
    self.tokenizer = tokenizer
    self.inputs_length = inputs_length

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Token rows [texts, inputs_length] of inputs that carry their prefix.

    Raises:
      DataError: a text is empty or no valid Unicode.
    """
    return text_rows.input_rows(texts, self.tokenizer, self.inputs_length)

  def generate(
    self,
    texts: Sequence[str],
    *,
    threshold: float = 1.0,
    sampler: sampling.Sampler | None = None,
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    eos_id: int = request_lib.EOS_ID,
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
    request = self.text_request(
      texts,
      threshold=threshold,
      decode_fn=sampler or decode_fns.Greedy(),
      seed=seed,
      prompts=prompts,
      eos_id=eos_id,
      max_decode_length=max_decode_length,
    )
    return self._shown(decodes[0] for decodes in self.answer(request))

  def generate_many(
    self,
    texts: Sequence[str],
    num_decodes: int,
    *,
    sampler: sampling.Sampler | None = None,
    batch_size: int | None = None,
    **asked,
  ) -> list[generations.Generations]:
    """Several draws per text, the most probable first.

    Draw i depends on the seed and on i alone: with more draws the first ones
    are still among them.

    Args:
      texts, num_decodes: as for `text_request`.
      sampler: draws tokens.
      batch_size: as for `answer`.
      **asked: as for `generate`.

    Raises:
      ConfigError: several draws without a sampler; as `generate`.
    """
    request = self.text_request(
      texts, num_decodes, decode_fn=sampler or decode_fns.Greedy(), **asked
    )
    return self.answer(request, batch_size)

  def beam_search(
    self,
    texts: Sequence[str],
    num_beams: int,
    *,
    alpha: float = 0.6,
    **asked,
  ) -> list[generations.Generations]:
    """The best outputs that a beam search with the full model finds.

    Args:
      texts: inputs as the task writes them.
      num_beams: sequences kept per text; 1 is greedy decoding.
      alpha: exponent of the length penalty; 0 for none.
      **asked: prompts, eos_id and max_decode_length, as for `generate`.

    Returns:
      Generations of each text, the best first: `num_beams` of them, or fewer
      where fewer were found. `log_prob` is the score with its length penalty;
      every piece uses all layers, those of a prompt none, and no confidence is
      measured (NaN).

    Raises:
      ConfigError: no beam, a negative or infinite alpha; as `generate`.
      NumericError: the model computes NaN or infinity.
    """
    search = beam_search.BeamSearch(alpha)
    return self.answer(
      self.text_request(texts, num_beams, decode_fn=search, **asked)
    )

  def text_request(
    self,
    texts: Sequence[str],
    num_decodes: int = 1,
    *,
    threshold: float = 1.0,
    decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    eos_id: int = request_lib.EOS_ID,
    max_decode_length: int | None = None,
  ) -> request_lib.DecodeRequest:
    """A request for `answer`.

    Args:
      num_decodes: outputs per text: draws, or the beams of a search.
      decode_fn: how tokens are chosen.
      texts, threshold, seed, prompts, eos_id, max_decode_length: as for
        `generate`.

    Raises:
      DataError, ConfigError: as `generate`.
    """
    checks.check_num_decodes(num_decodes, decode_fn)
    sampling.check_seed(seed)
    if max_decode_length is None:
      max_decode_length = self.max_decode_length
    seeds = None
    if isinstance(decode_fn, sampling.Sampler):
      # Far apart, so that draw 1 of seed 0 is not draw 0 of seed 1.
      draws = (seed + np.arange(num_decodes) * 2654435761) % 2**32
      seeds = np.tile(draws.astype(np.uint32), (len(texts), 1))
    rows = None
    if prompts is not None:
      rows = text_rows.prompt_rows(
        prompts,
        self.tokenizer,
        num_texts=len(texts),
        eos_id=eos_id,
        max_decode_length=max_decode_length,
      )
    return self.request(
      self.encode(texts),
      np.full((len(texts), num_decodes), threshold),
      decode_fn=decode_fn,
      seeds=seeds,
      prompts=rows,
      eos_id=eos_id,
      max_decode_length=max_decode_length,
    )

  def answer(
    self, request: request_lib.DecodeRequest, batch_size: int | None = None
  ) -> list[generations.Generations]:
    """Generations of each source of a request, the most probable first.

    Args:
      request: from `text_request`.
      batch_size: outputs made side by side, for any number of texts: where one
        ends, the next begins (`continuous_batching`; beam searches, and several
        devices, decode plain batches). All of them if None.

    Raises:
      ConfigError, NumericError: as `generate_tokens`.
    """
    result = self.generate_tokens(request, batch_size=batch_size)
    _warn_of_undefined(int(result.num_undefined.sum()))
    rows = np.arange(request.num_rows).reshape(request.thresholds.shape)
    order = np.argsort(-result.log_probs[rows], axis=1, kind='stable')
    return [
      self._shown(
        self._generation(result, row)
        for row in best_first
        # Of a search, beams may hold no sequence.
        if np.isfinite(result.log_probs[row])
      )
      for best_first in np.take_along_axis(rows, order, axis=1)
    ]

  def _generation(
    self, result: result_lib.DecodeResult, row: int
  ) -> Generation:
    """One row, its EOS and padding left out."""
    shown = np.flatnonzero(result.tokens[row] > request_lib.EOS_ID)
    tokens = result.tokens[row, shown]
    return Generation(
      text=self.tokenizer.decode(tokens),
      pieces=self.tokenizer.pieces(tokens),
      tokens=tuple(tokens.tolist()),
      num_layers_used=tuple(result.num_layers_used[row, shown].tolist()),
      confidences=tuple(result.confidences[row, shown].tolist()),
      log_prob=float(result.log_probs[row]),
    )

  def _shown(self, found: Iterable[Generation]) -> generations.Generations:
    return generations.Generations(found, self.model.config.num_decoder_layers)


def _warn_of_undefined(count: int) -> None:
  if count:
    warnings.warn(
      f'{count} confidences were not a number and let no token leave; the'
      ' measure or the model is damaged.',
      stacklevel=4,
    )


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
      'output_length', lengths.ProportionalLength(**found.info.output_length)
    )
  return TextGenerator(
    model_lib.EncoderDecoderModel(
      network.Transformer(found.config), **model_kwargs
    ),
    found.params,
    vocabulary.Tokenizer(found.vocabulary_path),
    inputs_length=found.info.feature_lengths['inputs'],
    max_decode_length=found.info.feature_lengths['targets'],
  )
