"""Milliseconds per token: our decoders, other engines, the hardware's limit.

    make bench                 or: python -m benchmarks.decode --help

Every system has a process of its own and the same weights and inputs; they are
asked in turns, repeat by repeat, so that whatever else the machine does slows
all of them. What is done once per sequence (encoder, keys and values of the
source) and compilation are timed apart. All systems make exactly --tokens
tokens. docs/speed.md explains rows, roofline and cost model.

A short run, minutes on two cores:

    make bench ARGS='--models small --batches 1 --output /tmp/decode'
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile

import numpy as np
import tqdm

from benchmarks import bandwidth, cases, outputs, rows, serve, systems
from calm_jax.evaluation import speed
from calm_jax.records import descriptions, json_records

_FEWEST_REPEATS = 3
_OUTPUT = serve.ROOT / 'benchmarks' / 'results' / 'decode'
# What the report keeps of the command.
_SETTINGS = (
  'models',
  'batches',
  'layers',
  'source',
  'tokens',
  'repeats',
  'row_seconds',
  'threads',
  'megabytes',
)


def make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--models',
    nargs='+',
    choices=cases.MODELS,
    default=['small', 'base', 'demo'],
    help="CALM's 8 layers, d 512, and 12, d 768; the shipped demo model",
  )
  parser.add_argument('--batches', nargs='+', type=int, default=[1, 8, 32])
  parser.add_argument(
    '--systems',
    nargs='+',
    default=list(systems.PROCESSES),
    help='beginnings of their names, as: calm_jax CTranslate2',
  )
  parser.add_argument(
    '--measures', nargs='+', help='of ours, as: softmax top_k_64; all of them'
  )
  parser.add_argument(
    '--layers', nargs='*', type=int, default=[1, 2, 4, 8], help='exits'
  )
  parser.add_argument('--source', type=int, default=512, help='source tokens')
  parser.add_argument('--tokens', type=int, default=64, help='tokens to make')
  parser.add_argument('--repeats', type=int, default=7, help='at most')
  parser.add_argument(
    '--row_seconds',
    type=float,
    default=15.0,
    help=f'repeats end there, after {_FEWEST_REPEATS} at least',
  )
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument(
    '--peers_python',
    default=sys.executable,
    help='an interpreter with the extra `bench`',
  )
  parser.add_argument(
    '--megabytes', type=int, default=512, help='array of the bandwidth'
  )
  parser.add_argument(
    '--output',
    type=pathlib.Path,
    default=_OUTPUT,
    help='path without ending of .json, .md and .png',
  )
  return parser


class Benchmark:
  """All measurements of one command."""

  def __init__(self, args: argparse.Namespace):
    self._args = args
    self._reader = bandwidth.Reader(args.megabytes, args.threads)
    self.bytes_per_second = [self._reader.bytes_per_second()]
    self.versions = {
      'python': platform.python_version(),
      'numpy': np.__version__,
    }
    self.missing = {}
    self.device = ''

  def measure_model(self, case: cases.Case) -> list[rows.Runs]:
    """All batch sizes of one model."""
    processes, opened = {}, {}
    try:
      for name in self._wanted():
        processes[name] = systems.start(name, self._args.peers_python)
        try:
          opened[name] = processes[name].ask(
            'open',
            directory=str(case.directory),
            new_tokens=self._args.tokens,
            threads=self._args.threads,
          )
        except serve.Unavailable as reason:
          self.missing[name] = str(reason).splitlines()[-1]
          print(f'{name} is left out: {reason}', file=sys.stderr)
          processes.pop(name).close()
          continue
        self.versions |= opened[name]['versions']
        self.device = opened[name].get('device', self.device)
      if not processes:
        raise SystemExit(
          f'No system is left to measure: {" ".join(self._args.systems)}'
          f' (--systems) must begin names of {", ".join(systems.PROCESSES)}.'
        )
      return [
        self._measure_batch(case, batch, processes, opened)
        for batch in self._args.batches
      ]
    finally:
      for process in processes.values():
        process.close()

  def _wanted(self) -> list[str]:
    return [
      name
      for name in systems.PROCESSES
      if any(name.startswith(x) for x in self._args.systems)
    ]

  def _measure_batch(self, case, batch, processes, opened) -> rows.Runs:
    ours = opened.get(systems.CALM, {'measures': {}, 'first_layers': {}})
    measures = {
      key: descriptions.Description.from_json(measure)
      for key, measure in ours['measures'].items()
    }
    runs = rows.Runs(case, batch, self._args.tokens, measures, {}, {}, {})
    name = f'{case.name}, batch {batch}'
    for system in tqdm.tqdm(
      self._systems(case, processes, ours), desc=f'{name}: prepare'
    ):
      self._prepare(runs, processes[system.process], system)
    repeats = {x: self._num_repeats(runs, x) for x in runs.decoded}
    for answers in runs.decoded.values():
      answers.clear()  # The first one was for warming up.
    for i in tqdm.trange(max(repeats.values()), desc=f'{name}: measure'):
      self.bytes_per_second.append(self._reader.bytes_per_second())
      wanted = [x for x in runs.decoded if i < repeats[x]]
      for process in dict.fromkeys(x.process for x in wanted):
        if process == systems.CALM and i >= _FEWEST_REPEATS:
          continue  # Its decoder is timed without it, and encoders are slow.
        runs.sources.setdefault(process, []).append(
          processes[process].ask('source', batch=batch)
        )
      # Each repeat begins elsewhere: what runs first finds cold caches.
      start = i % len(wanted)
      for system in wanted[start:] + wanted[:start]:
        runs.decoded[system].append(
          _decode(runs, processes[system.process], system)
        )
    return runs

  def _systems(self, case, processes, ours) -> list[systems.System]:
    measures = list(ours['measures'])
    if self._args.measures is not None:
      # The full model is what all others are compared with.
      measures = [
        x for x in measures if x == 'none' or x in self._args.measures
      ]
    return [
      system
      for process in processes
      for system in systems.of_process(
        process,
        case.sizes.num_decoder_layers,
        measures,
        self._args.layers,
        ours['first_layers'],
      )
    ]

  def _prepare(self, runs, process, system) -> None:
    # All exits of a measure share one program.
    for other, seconds in runs.prepared.items():
      if (other.process, other.measure) == (system.process, system.measure):
        runs.prepared[system] = seconds
        break
    else:
      runs.prepared[system] = process.ask(
        'prepare', measure=system.measure, batch=runs.batch
      )['seconds']
    runs.decoded[system] = [_decode(runs, process, system)]

  def _num_repeats(self, runs, system) -> int:
    seconds = runs.decoded[system][0]['seconds']
    affordable = int(self._args.row_seconds / max(seconds, 1e-9))
    return min(max(affordable, _FEWEST_REPEATS), self._args.repeats)


def _decode(runs, process, system):
  return process.ask(
    'decode', measure=system.measure, exit=system.exit, batch=runs.batch
  )


def report_of(benchmark: Benchmark, all_runs, args) -> dict:
  """Everything that goes into the JSON file."""
  # A limit is the best that was ever seen.
  limit = max(benchmark.bytes_per_second)
  found = [row for runs in all_runs for row in rows.rows_of(runs, limit)]
  fitted = rows.add_predictions(all_runs, found)
  settings = {k: v for k, v in vars(args).items() if k in _SETTINGS}
  return {
    'machine': speed.describe_machine(),
    'device': benchmark.device,
    'versions': benchmark.versions,
    'settings': settings,
    'left_out': benchmark.missing,
    'read_bandwidth': {
      'best_gb_per_second': limit / 1e9,
      'median_gb_per_second': float(np.median(benchmark.bytes_per_second))
      / 1e9,
    },
    'sources': [
      {
        'model': r.case.name,
        'batch': r.batch,
        'processes': rows.sources_of(r),
      }
      for r in all_runs
    ],
    'cost_model': fitted,
    'rows': found,
  }


def main(argv=None) -> None:
  args = make_parser().parse_args(argv)
  benchmark, all_runs = Benchmark(args), []
  for name in args.models:
    with tempfile.TemporaryDirectory() as directory:
      case = cases.write(
        name, pathlib.Path(directory), args.source, max(args.batches)
      )
      all_runs += benchmark.measure_model(case)
    # After each model: what is finished is kept if the next one is not.
    table = _write(report_of(benchmark, all_runs, args), args.output)
  print(table)
  print(f'Written: {args.output}.json, .md, .png')


def _write(report: dict, output: pathlib.Path) -> str:
  """Writes the three files; returns the table."""
  table = outputs.markdown(report)
  for ending, content in (
    ('json', json.dumps(report, indent=2).encode() + b'\n'),
    ('md', table.encode()),
    ('png', outputs.figure(report)),
  ):
    # Not `with_suffix`: a name may have dots of its own.
    path = output.with_name(f'{output.name}.{ending}')
    json_records.write_bytes_atomically(path, content)
  return table


if __name__ == '__main__':
  main()
