"""The process of our decoders: python -m benchmarks.serve_calm."""

import pathlib
import time

import jax
import numpy as np

from benchmarks import programs, serve
from calm_jax.checkpoints import from_huggingface
from calm_jax.records import descriptions


class CalmServer(serve.Server):
  """All measures over one set of weights."""

  def open(self, directory, new_tokens, threads):
    del threads  # XLA takes what the process may use.
    # Its time is part of the results.
    jax.config.update('jax_enable_compilation_cache', False)
    directory = pathlib.Path(directory)
    model = from_huggingface.load(directory)
    self._params = jax.device_put(model.params)
    self._inputs = np.load(directory / 'inputs.npy')
    self._programs = programs.Programs(model.config, new_tokens)
    self._joined = jax.jit(self._programs.joined)(self._params)
    self._compiled, self._constants, self._prepared = {}, {}, {}
    return {
      'versions': {'jax': jax.__version__},
      'device': jax.devices()[0].platform,
      'measures': {
        key: descriptions.describe(x).to_json()
        for key, x in programs.MEASURES.items()
      },
      'first_layers': {
        key: x.first_layer for key, x in programs.MEASURES.items()
      },
    }

  def prepare(self, measure, batch):
    if ('constants', batch) not in self._compiled:
      self._prepare_source(batch)
    if measure not in self._prepared:
      self._prepared[measure] = jax.jit(
        lambda params: self._programs.prepared(measure, params)
      )(self._params)
    start = time.perf_counter()
    self._compiled[measure, batch] = _compile(
      lambda *args: self._programs.decode(measure, *args),
      *self._arguments(measure, 1, batch),
    )
    return {'seconds': time.perf_counter() - start}

  def source(self, batch):
    rows = self._inputs[:batch]
    seconds = [
      _timed(self._compiled[name, batch], self._params, rows)[0]
      for name in ('constants', 'encode')
    ]
    return {
      'seconds': seconds[0],
      'encoder_seconds': seconds[1],
      'new_tokens': 0,
    }

  def decode(self, measure, exit, batch):
    seconds, result = _timed(
      self._compiled[measure, batch], *self._arguments(measure, exit, batch)
    )
    num_layers = self._programs.config.num_decoder_layers
    used = np.asarray(result.num_layers_used)
    return {
      'seconds': seconds,
      'tokens': np.asarray(result.tokens).tolist(),
      'includes_source': False,
      'layers': np.bincount(used.ravel(), minlength=num_layers + 1)[
        1:
      ].tolist(),
    }

  def _prepare_source(self, batch):
    rows = self._inputs[:batch]
    for name in ('constants', 'encode'):
      self._compiled[name, batch] = _compile(
        getattr(self._programs, name), self._params, rows
      )
    _, self._constants[batch] = _timed(
      self._compiled['constants', batch], self._params, rows
    )

  def _arguments(self, measure, exit, batch):
    threshold = programs.threshold_of(
      exit, measure, self._programs.config.num_decoder_layers
    )
    return (
      self._params,
      self._prepared[measure],
      self._joined,
      self._constants[batch],
      np.full((batch,), threshold, np.float32),
    )


def _compile(function, *args):
  return jax.jit(function).lower(*args).compile()


def _timed(call, *args):
  start = time.perf_counter()
  result = jax.block_until_ready(call(*args))
  return time.perf_counter() - start, result


if __name__ == '__main__':
  serve.answer_questions(CalmServer())
