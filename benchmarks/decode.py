"""Milliseconds per token of CALM's 8-layer decoder under each measure.

    make bench                 or: python benchmarks/decode.py --help

Random weights at CALM's sizes (8 decoder layers, d 512, vocabulary 32,128), so
that nothing but the work differs between systems. Every system is one compiled
program over the same weights and inputs; their runs are interleaved, and the
median over the repeats counts. The encoder's time is subtracted: it is timed by
itself. "Never leaves" pays for a measure at all layers and gains nothing, "at
layer k" leaves there.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from calm_jax import models
from calm_jax.early_exit import (
  classifier_confidence,
  classifiers,
  confidence,
  never_exit,
  top_k,
)
from calm_jax.t5 import network

CONFIG = network.T5Config(vocab_size=32128, dropout_rate=0.0)
KINDS = (classifiers.Linear(), classifiers.Attention())


@dataclasses.dataclass(frozen=True)
class AtLayer(never_exit.NeverExit):
  """Computes a measure until one layer, and leaves there."""

  layer: int

  def __call__(self, view):
    answer = self.measure(view)
    if view.layer < self.layer:
      return answer.replace(confidence=jnp.minimum(answer.confidence, -1.0))
    return answer.replace(confidence=jnp.maximum(answer.confidence, 1.0))


def systems(layers: tuple[int, ...]) -> dict:
  """Name -> (measure, threshold)."""
  measures = {
    'softmax response': confidence.SoftmaxTopTwoGap(),
    'top-k, K = 16': top_k.TopKPropagation(k=16),
    'top-k, K = 64': top_k.TopKPropagation(k=64),
    'top-k, K = 256': top_k.TopKPropagation(k=256),
    'saturation': confidence.HiddenStateSaturation(),
    'linear classifier': classifier_confidence.ClassifierConfidence(KINDS[0]),
    'attention classifier, 64': classifier_confidence.ClassifierConfidence(
      KINDS[1]
    ),
  }
  found = {'full model, no exits': (confidence.SoftmaxTopTwoGap(), 1.0)}
  for name, measure in measures.items():
    found[f'{name}: never leaves'] = (never_exit.NeverExit(measure), 0.0)
  for layer in layers:
    for name in ('softmax response', 'top-k, K = 64'):
      found[f'{name}: at layer {layer}'] = (
        AtLayer(measures[name], layer),
        0.5,
      )
  return found


def build(measure, threshold, source, length, batch):
  """A compiled call without arguments, and the tokens that it gives."""
  module = network.Transformer(CONFIG)
  model = models.EncoderDecoderModel(module, measure=measure)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(2, CONFIG.vocab_size, (batch, source)))
  thresholds = jnp.full((batch,), threshold, jnp.float32)
  run = jax.jit(
    lambda params: model.generate(
      params, tokens, thresholds, max_decode_length=length
    )
  )
  encode = jax.jit(
    lambda params: module.apply({'params': params}, tokens, method='encode')
  )
  return run, encode


def random_params():
  """Weights drawn once for all systems; EOS, whose logit is 0, never wins."""
  token = jnp.ones((1, 1), jnp.int32)
  params = network.Transformer(CONFIG).init(
    jax.random.key(0), token, token, token, enable_dropout=False
  )['params']
  kernel = params['decoder']['logits_dense']['kernel']
  params['decoder']['logits_dense']['kernel'] = kernel.at[:, models.EOS_ID].set(
    0.0
  )
  params[classifiers.PARAMS] = {
    kind.name: classifiers.init_params(
      kind, jax.random.key(1), CONFIG.emb_dim, CONFIG.num_decoder_layers
    )
    for kind in KINDS
  }
  return params


def seconds_of(call, params) -> float:
  start = time.perf_counter()
  jax.block_until_ready(call(params))
  return time.perf_counter() - start


def measure(args, params):
  """Interleaved seconds of every system and of the encoder, and results."""
  runs, results = {}, {}
  for name, (one, threshold) in tqdm.tqdm(
    systems(tuple(args.layers)).items(), desc='compile'
  ):
    runs[name], encode = build(
      one, threshold, args.source, args.tokens, args.batch
    )
    results[name] = jax.block_until_ready(runs[name](params))
  jax.block_until_ready(encode(params))
  times = {name: [] for name in runs}
  encoder = []
  for _ in tqdm.trange(args.repeats, desc='measure'):
    encoder.append(seconds_of(encode, params))
    for name, run in runs.items():
      times[name].append(seconds_of(run, params))
  return times, statistics.median(encoder), results


def rows_of(times, encoder_seconds, results) -> list[dict]:
  """Layers, median and quartiles of each system, the full model first."""
  rows = []
  for name, result in results.items():
    used = np.asarray(result.num_layers_used)
    steps = int((used > 0).sum(axis=1).max())
    per_token = [1e3 * (x - encoder_seconds) / steps for x in times[name]]
    low, middle, high = np.quantile(per_token, [0.25, 0.5, 0.75]).tolist()
    rows.append(
      {
        'system': name,
        'mean_layers': float(used[used > 0].mean()),
        'ms_per_token': middle,
        'quartiles': [low, high],
        'times_full': middle / (rows[0]['ms_per_token'] if rows else middle),
      }
    )
  return rows


def show(rows: list[dict]) -> None:
  print(f'\n{"":38}{"layers":>8}{"ms/token":>10}{"quartiles":>16}{"/ full":>8}')
  for row in rows:
    quartiles = '{:.2f} to {:.2f}'.format(*row['quartiles'])
    print(
      f'{row["system"]:38}{row["mean_layers"]:8.2f}{row["ms_per_token"]:10.2f}'
      f'{quartiles:>16}{row["times_full"]:8.2f}'
    )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--source', type=int, default=512)
  parser.add_argument('--tokens', type=int, default=64)
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--layers', type=int, nargs='*', default=[1, 2, 4])
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  times, encoder_seconds, results = measure(args, random_params())
  rows = rows_of(times, encoder_seconds, results)
  show(rows)
  if args.output is None:
    return
  report = {
    'machine': f'{platform.system()} {platform.machine()},'
    f' {os.cpu_count()} cores',
    'device': jax.devices()[0].platform,
    'jax': jax.__version__,
    'settings': {k: v for k, v in vars(args).items() if k != 'output'},
    'encoder_ms': 1e3 * encoder_seconds,
    'rows': rows,
  }
  args.output.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
  main()
