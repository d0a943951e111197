"""Runs a plan on one model: a dump for each measure, its times, recall of K.

TextGenerator, Plan, examples --> dumps, trade-offs with times, ranks
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax.decode import generation
from calm_jax.decode import model as model_lib
from calm_jax.dump import reader
from calm_jax.early_exit.measures import never_exit, oracle
from calm_jax.evaluation import speed, trade_off
from calm_jax.records import contracts
from calm_jax.study import plan as plan_lib
from calm_jax.study import recall

_Dump = tuple[contracts.Manifest, contracts.Dump]


@dataclasses.dataclass(frozen=True)
class Swept:
  """What one sweep gave: its generator, its dump and a row per threshold."""

  generator: generation.TextGenerator
  dump: _Dump
  rows: list[trade_off.TradeOff]


def with_measure(
  generator: generation.TextGenerator, measure: Any
) -> generation.TextGenerator:
  """The same model and texts, leaving by another measure.

  Raises:
    ConfigError: the measure does not fit the network.
    DataError: the model has no parameters for it.
  """
  model = generator.model
  return generation.TextGenerator(
    model_lib.EncoderDecoderModel(
      model.module,
      measure=measure,
      threshold_schedule=model.threshold_schedule,
      exit_layers=model.exit_layers,
      skipped_layers=model.skipped_layers,
      output_length=model.output_length,
      rows_per_pack=model.rows_per_pack,
    ),
    generator.params,
    generator.tokenizer,
    inputs_length=generator.inputs_length,
    max_decode_length=generator.max_decode_length,
  )


def generators(
  generator: generation.TextGenerator, plan: plan_lib.Plan
) -> dict[str, generation.TextGenerator]:
  """One per sweep; finds a wrong plan before anything runs."""
  return {
    name: with_measure(generator, sweep.measure)
    for name, sweep in plan.sweeps.items()
  }


def sweep(
  name: str,
  generator: generation.TextGenerator,
  write_dump: Callable[[generation.TextGenerator], pathlib.Path],
  timed_examples: int,
) -> Swept:
  """Dumps one sweep and times each of its thresholds.

  Args:
    name: of the sweep.
    generator: from `generators`.
    write_dump: decodes the texts and says where the dump is.
    timed_examples: texts timed at each threshold.
  """
  manifest, dump = reader.read_dump(write_dump(generator))
  rows = trade_off.trade_offs(name, manifest, dump)
  texts = random_sources(dump, timed_examples)
  return Swept(
    generator, (manifest, dump), [_timed(generator, texts, x) for x in rows]
  )


def random_sources(dump: contracts.Dump, count: int) -> list[str]:
  """Some texts of a dump, the same at every call.

  A dump is sorted by length; ids are hashes, so their order is a random one.
  """
  return dump.sources[np.argsort(dump.example_ids)[:count]].tolist()


def _timed(generator, texts: Sequence[str], row: trade_off.TradeOff):
  timings = speed.measure(generator, texts, threshold=row.threshold)
  return dataclasses.replace(
    row,
    ms_per_token=timings.calibrated.ms_per_token,
    speedup=timings.speedup,
  )


def true_cache_oracle(swept: Swept) -> trade_off.TradeOff:
  """The oracle whose skipped layers know each token's true states.

  Its output is the full model's, so its loss is 0: a bound of what exits could
  give if nothing were lost in propagation. No decoder can be so, hence no time.

  Args:
    swept: of any measure: its first column is the full model's output.
  """
  layers = oracle.true_cache_layers(swept.dump[1].trace_tokens)
  return dataclasses.replace(
    swept.rows[0],
    measure='oracle, true cache',
    threshold=float('nan'),
    mean_layers=float(layers[layers > 0].mean()),
    ms_per_token=float('nan'),
    speedup=float('nan'),
  )


def recall_of(
  generator: generation.TextGenerator, dump: contracts.Dump, ks: Sequence[int]
) -> Mapping[int, np.ndarray]:
  """K -> [layers], share of the full model's tokens among the layer's K best.

  Args:
    generator: the model.
    dump: of any measure: its first column is the full model's output.
    ks: the values of K, those beyond the vocabulary left out.
  """
  ranks = recall.token_ranks(
    generator.model.module,
    generator.params,
    generator.encode(dump.sources.tolist()),
    dump.tokens[:, 0],
  )
  vocabulary = generator.model.config.vocab_size
  return {k: trade_off.recall_at(ranks, k) for k in ks if k <= vocabulary}


def never_leaving_times(
  generator: generation.TextGenerator,
  measures: Mapping[str, Any],
  texts: Sequence[str],
) -> dict[str, float]:
  """ms per token where every layer is measured and no token ever leaves.

  Args:
    generator: the model.
    measures: name -> measure; None for the full model, which measures nothing.
    texts: what is decoded.
  """
  return {
    name: _never_leaving_time(generator, measure, texts)
    for name, measure in measures.items()
  }


def _never_leaving_time(generator, measure, texts) -> float:
  if measure is None:
    return speed.measure(generator, texts, threshold=1.0).full.ms_per_token
  generator = with_measure(generator, never_exit.NeverExit(measure))
  timings = speed.measure(generator, texts, threshold=0.0)
  return timings.calibrated.ms_per_token
