"""From seconds to rows: medians, spread, the hardware's limit, the model's."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import cases, cost_model, systems
from calm_jax.evaluation import confidence_cost, measure_costs
from calm_jax.records import descriptions


@dataclasses.dataclass
class Runs:
  """What was measured of one model and batch size.

  Attributes:
    case: the model.
    batch: rows.
    new_tokens: of each row.
    measures: key -> our measure.
    prepared: seconds to compile, or of a peer's first run.
    decoded: all answers of `decode`, in the order of the repeats.
    sources: all answers of `source`, by process, in the same order.
  """

  case: cases.Case
  batch: int
  new_tokens: int
  measures: Mapping[str, descriptions.Description]
  prepared: dict[systems.System, float]
  decoded: dict[systems.System, list[dict[str, Any]]]
  sources: dict[str, list[dict[str, Any]]]


def rows_of(runs: Runs, bytes_per_second: float) -> list[dict[str, Any]]:
  """A row per system, our full model first; `ms_per_token` is that of a step,
  which makes a token of every row."""
  num_layers = runs.case.sizes.num_decoder_layers
  found = []
  for system, answers in runs.decoded.items():
    each = _ms_per_token(runs, system)
    low, middle, high = np.quantile(each, [0.25, 0.5, 0.75]).tolist()
    work = work_of(runs, system)
    roofline = 1e3 * work.num_bytes / bytes_per_second
    shares = _layer_shares(runs, system)
    found.append(
      {
        'model': runs.case.name,
        'batch': runs.batch,
        'system': system.name(num_layers),
        'process': system.process,
        'measure': system.measure,
        'exit': system.exit,
        'mean_layers': float(shares @ np.arange(1, num_layers + 1)),
        'ms_per_token': middle,
        'quartiles': [low, high],
        'repeats': len(each),
        'tokens_per_second': 1e3 * runs.batch / middle,
        'prepare_seconds': runs.prepared[system],
        'mb_per_token': work.num_bytes / 1e6,
        'roofline_ms': roofline,
        'of_roofline': roofline / middle,
        'same_tokens': _same_tokens(runs, system, answers[0]['tokens']),
      }
    )
  return found


def sources_of(runs: Runs) -> dict[str, dict[str, float | None]]:
  """Milliseconds once per batch of sequences, by process."""
  found = {}
  for process, answers in runs.sources.items():
    seconds = statistics.median(x['seconds'] for x in answers)
    encoder = answers[0]['encoder_seconds']
    if encoder is not None:
      encoder = 1e3 * statistics.median(x['encoder_seconds'] for x in answers)
    made = answers[0]['new_tokens']
    if made:
      (system,) = (x for x in runs.decoded if x.process == process)
      seconds -= made * statistics.median(_ms_per_token(runs, system)) / 1e3
    found[process] = {'source_ms': 1e3 * seconds, 'encoder_ms': encoder}
  return found


def work_of(runs: Runs, system: systems.System) -> cost_model.Work:
  """What a step of the system does at least."""
  cost = confidence_cost.ChosenOnly()
  if system.measure:
    cost = measure_costs.cost_of(runs.measures[system.measure])
  weight_bytes, cache_bytes = systems.number_bytes(system.process)
  return cost_model.step_work(
    runs.case.sizes,
    _layer_shares(runs, system),
    cost,
    batch_size=runs.batch,
    source_length=runs.case.source_length,
    target_length=runs.new_tokens,
    weight_bytes=weight_bytes,
    cache_bytes=cache_bytes,
  )


def add_predictions(
  all_runs: Sequence[Runs], rows: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
  """Fits the cost model to our rows and writes its predictions into them.

  Rows with mixed layers are held out: they are what one asks it about.

  Returns:
    Its constants and errors; None where nothing of ours was measured.
  """
  works = [work_of(r, s) for r in all_runs for s in r.decoded]
  ours = [row['process'] == systems.CALM for row in rows]
  held_out = [row['exit'] == systems.MIXED for row in rows]
  fitted = [a and not b for a, b in zip(ours, held_out, strict=True)]
  if not any(fitted):
    return None
  constants = cost_model.fit(
    [work for work, chosen in zip(works, fitted, strict=True) if chosen],
    [
      row['ms_per_token'] / 1e3
      for row, chosen in zip(rows, fitted, strict=True)
      if chosen
    ],
  )
  errors = {'fitted': [], 'held_out': []}
  for row, work, is_ours in zip(rows, works, ours, strict=True):
    if not is_ours:
      continue
    row['predicted_ms'] = 1e3 * cost_model.predict(work, constants)
    kind = 'held_out' if row['exit'] == systems.MIXED else 'fitted'
    errors[kind].append(abs(row['predicted_ms'] / row['ms_per_token'] - 1))
  return {
    'constants': constants.to_json(),
    'relative_errors': {
      kind: {
        'median': statistics.median(values),
        'largest': max(values),
        'rows': len(values),
      }
      for kind, values in errors.items()
      if values
    },
  }


def _ms_per_token(runs: Runs, system: systems.System) -> np.ndarray:
  """[repeats]; what is done once per sequence is taken off."""
  answers = runs.decoded[system]
  seconds = np.array([x['seconds'] for x in answers])
  tokens = runs.new_tokens
  if answers[0]['includes_source']:
    sources = runs.sources[system.process][: len(seconds)]
    seconds = seconds - np.array([x['seconds'] for x in sources])
    tokens -= sources[0]['new_tokens']
  return 1e3 * seconds / tokens


def _layer_shares(runs: Runs, system: systems.System) -> np.ndarray:
  counts = runs.decoded[system][0].get('layers')
  if counts is None:  # A peer: all layers.
    return np.eye(runs.case.sizes.num_decoder_layers)[-1]
  return np.array(counts) / np.sum(counts)


def _same_tokens(
  runs: Runs, system: systems.System, tokens: list[list[int]]
) -> float | None:
  """Share of tokens that equal our full model's, up to its first EOS.

  Peers may not end there, so that they go on with another token.
  """
  num_layers = runs.case.sizes.num_decoder_layers
  if system.exit != num_layers:
    return None
  full = systems.System(systems.CALM, 'none', num_layers)
  if full not in runs.decoded:
    return None
  expected = np.array(runs.decoded[full][0]['tokens'])
  before_eos = np.logical_and.accumulate(expected != 1, axis=1)
  if not before_eos.any():
    return None
  same = (np.array(tokens) == expected)[before_eos]
  return float(same.mean())
