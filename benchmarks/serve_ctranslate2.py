"""The process of CTranslate2: python -m benchmarks.serve_ctranslate2 TYPE.

Needs the extra `bench` of this package, and nothing else of it.
"""

import json
import pathlib
import sys
import tempfile
import time

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import transformers as converter
from ctranslate2.specs import model_spec

from benchmarks import serve, serve_transformers


def convert(directory: pathlib.Path, output: pathlib.Path) -> None:
  """Writes CTranslate2's form of a model, without a tokenizer.

  Pieces are called by their ids, because ids are what goes in and out here.
  """
  config = json.loads((directory / 'config.json').read_text())
  model = serve_transformers.load_model(directory, torch.float32)
  spec = converter.T5Loader().get_model_spec(model)
  # The converter asks transformers' config, which says "tied" of every T5.
  spec.decoder.scale_outputs = (
    config['d_model'] ** -0.5
    if config['tie_word_embeddings']
    else model_spec.OPTIONAL
  )
  spec.config.bos_token = spec.config.decoder_start_token = '0'
  spec.config.eos_token, spec.config.unk_token = '1', '2'
  pieces = [str(i) for i in range(config['vocab_size'])]
  spec.register_source_vocabulary(pieces)
  spec.register_target_vocabulary(pieces)
  spec.validate()
  spec.optimize()
  spec.save(str(output))


class CTranslate2Server(serve.Server):
  """Greedy `translate_batch`."""

  def __init__(self, compute_type: str):
    self._compute_type = compute_type

  def open(self, directory, new_tokens, threads):
    directory = pathlib.Path(directory)
    with tempfile.TemporaryDirectory() as output, torch.no_grad():
      convert(directory, pathlib.Path(output))
      self._translator = ctranslate2.Translator(
        output,
        device='cpu',
        compute_type=self._compute_type,
        inter_threads=1,
        intra_threads=threads,
      )
    inputs = np.load(directory / 'inputs.npy')
    self._inputs = [[str(i) for i in row] for row in inputs.tolist()]
    self._new_tokens = new_tokens
    return {'versions': {'ctranslate2': ctranslate2.__version__}}

  def prepare(self, measure, batch):
    seconds, _ = self._translate(batch, self._new_tokens)
    return {'seconds': seconds}

  def source(self, batch):
    # It has no way to run the encoder of such a model alone.
    seconds, _ = self._translate(batch, 1)
    return {'seconds': seconds, 'encoder_seconds': None, 'new_tokens': 1}

  def decode(self, measure, exit, batch):
    seconds, tokens = self._translate(batch, self._new_tokens)
    return {'seconds': seconds, 'tokens': tokens, 'includes_source': True}

  def _translate(self, batch, new_tokens):
    start = time.perf_counter()
    results = self._translator.translate_batch(
      self._inputs[:batch],
      beam_size=1,
      min_decoding_length=new_tokens,
      max_decoding_length=new_tokens,
    )
    seconds = time.perf_counter() - start
    return seconds, [[int(x) for x in r.hypotheses[0]] for r in results]


if __name__ == '__main__':
  serve.answer_questions(CTranslate2Server(sys.argv[1]))
