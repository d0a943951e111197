"""The first exit of one token: the whole vocabulary against a preview of it.

    python benchmarks/first_exit.py --help

Random weights at CALM's sizes (d 512, vocabulary 32,128), batch 1. The exits
are compiled by themselves, their runs interleaved, and each is set against the
exact exit of the same round: the median of these ratios counts, so that other
work on the machine slows both sides of it.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp

from calm_jax.early_exit.engine import clock, confidence, prediction
from calm_jax.early_exit.measures import screening, top_k
from calm_jax.t5 import network
from calm_jax.t5 import rows as rows_lib

_EXACT = 'exact'


def exits(sizes) -> dict:
  """Name -> measure."""
  screened = {
    f'rank {rank}, C = {count}': screening.ScreenedTopK(
      k=64, rank=rank, num_candidates=count
    )
    for rank, count in sizes
  }
  return {_EXACT: top_k.TopKPropagation(k=64)} | screened


def build(config, params, hidden, measure):
  """A compiled first exit without arguments."""
  module = network.Transformer(config)
  prepared = jax.jit(functools.partial(measure.prepare, config))(params)

  @jax.jit
  def answer(params, prepared, hidden):
    view = confidence.LayerView(
      layer=1,
      num_layers=config.num_decoder_layers,
      exit_number=0,
      hidden=hidden,
      previous_hidden=hidden,
      clock=clock.Clock(jnp.int32(0), jnp.zeros(len(hidden), int)),
      rows=rows_lib.Rows.all(len(hidden)),
      kept_states=hidden[:, None],
      is_full_model=jnp.zeros(len(hidden), bool),
      params=params,
      network=functools.partial(module.apply, {'params': params}),
      predict=prediction.predict,
      prepared=prepared,
      token_state=None,
    )
    return measure(view)

  return lambda: jax.block_until_ready(answer(params, prepared, hidden))


def main() -> None:
  """Prints medians in milliseconds, and how many times faster than exact."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=200)
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--tied', action='store_true')
  args = parser.parse_args()
  # One layer: only the output embedding matters here.
  config = network.T5Config(
    vocab_size=32128,
    num_encoder_layers=1,
    num_decoder_layers=2,
    logits_via_embedding=args.tied,
  )
  tokens = jnp.ones((1, 2), jnp.int32)
  params = network.Transformer(config).init(
    jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  )['params']
  hidden = jax.random.normal(jax.random.key(1), (args.batch, config.emb_dim))
  sizes = ((32, 256), (64, 64), (64, 256), (128, 256), (128, 512))
  calls = {
    name: build(config, params, hidden, measure)
    for name, measure in exits(sizes).items()
  }
  seconds = {name: [] for name in calls}
  for call in calls.values():
    call()
  for _ in range(args.repeats):
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
  for name, each in seconds.items():
    ratios = [x / y for x, y in zip(seconds[_EXACT], each, strict=True)]
    print(
      f'{name:16} median {statistics.median(each) * 1e3:6.2f} ms, fastest'
      f' {min(each) * 1e3:6.2f} ms, {statistics.median(ratios):5.2f} times as'
      ' fast'
    )


if __name__ == '__main__':
  main()
