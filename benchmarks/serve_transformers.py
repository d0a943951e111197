"""The process of transformers: python -m benchmarks.serve_transformers DTYPE.

Needs the extra `bench` of this package, and nothing else of it.
"""

import pathlib
import sys
import time

import numpy as np
import torch
import transformers

from benchmarks import serve


def load_model(directory: pathlib.Path, dtype: torch.dtype):
  """The model in evaluation mode.

  transformers 5 says that it ties the embeddings of every T5; it does not where
  the file holds an output embedding of its own.
  """
  return transformers.T5ForConditionalGeneration.from_pretrained(
    directory, dtype=dtype
  ).eval()


class TransformersServer(serve.Server):
  """Greedy `generate` with a cache."""

  def __init__(self, dtype: str):
    self._dtype = getattr(torch, dtype)

  def open(self, directory, new_tokens, threads):
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    directory = pathlib.Path(directory)
    self._model = load_model(directory, self._dtype)
    self._inputs = np.load(directory / 'inputs.npy')
    self._new_tokens = new_tokens
    return {
      'versions': {
        'torch': torch.__version__,
        'transformers': transformers.__version__,
      }
    }

  def prepare(self, measure, batch):
    seconds, _ = self._generate(batch, self._new_tokens)
    return {'seconds': seconds}

  def source(self, batch):
    rows = torch.from_numpy(self._inputs[:batch]).long()
    start = time.perf_counter()
    self._model.get_encoder()(input_ids=rows)
    encoder_seconds = time.perf_counter() - start
    seconds, _ = self._generate(batch, 1)
    return {
      'seconds': seconds,
      'encoder_seconds': encoder_seconds,
      'new_tokens': 1,
    }

  def decode(self, measure, exit, batch):
    seconds, tokens = self._generate(batch, self._new_tokens)
    return {'seconds': seconds, 'tokens': tokens, 'includes_source': True}

  def _generate(self, batch, new_tokens):
    rows = torch.from_numpy(self._inputs[:batch]).long()
    start = time.perf_counter()
    # Its own cache has as many layers as the encoder (transformers 5.23).
    cache = transformers.EncoderDecoderCache(
      transformers.DynamicCache(), transformers.DynamicCache()
    )
    tokens = self._model.generate(
      input_ids=rows,
      attention_mask=torch.ones_like(rows),
      past_key_values=cache,
      min_new_tokens=new_tokens,
      max_new_tokens=new_tokens,
      do_sample=False,
      num_beams=1,
      use_cache=True,
    )
    seconds = time.perf_counter() - start
    return seconds, tokens[:, 1:].tolist()  # The start symbol is no output.


if __name__ == '__main__':
  serve.answer_questions(TransformersServer(sys.argv[1]))
