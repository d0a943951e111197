"""Kills stages at random moments, runs them again, compares what they give.

    python -m reliability.kill_matrix --runs 100 --output kills.json

Each run is one of train, dump, infer and report with a tiny model. It is
killed once or twice (SIGKILL or SIGTERM, at moments drawn from --seed), then
the same command is given until it ends by itself. Its results must be those of
a run that was never killed: byte for byte, for checkpoints array for array. It
takes seven minutes on two idle cores.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from reliability import forked, stages

_MOST_SECONDS = 240  # of a command; longer is taken for a hang.
_SAVED = 143
_SIGNALS = {'SIGKILL': signal.SIGKILL, 'SIGTERM': signal.SIGTERM}


@dataclasses.dataclass
class Run:
  """What happened.

  Attributes:
    stage: that was run.
    signal: by name.
    moments: of the signals, in seconds after the command's start.
    codes: exit codes of all its commands, a signal's negative.
    hits: signals that found the command still running.
    wrong: '' or what differs from the run that was not killed.
  """

  stage: str
  signal: str
  moments: list[float]
  codes: list[int]
  hits: int = 0
  wrong: str = ''


class Matrix:
  """Runs of all stages in one temporary folder."""

  def __init__(self, folder: pathlib.Path, seed: int):
    self._folder = folder
    self._random = random.Random(seed)
    self._inputs = folder / 'inputs'
    self._seconds: dict[str, float] = {}
    self._expected: dict[str, dict[str, str]] = {}
    self._stages: list[stages.Stage] = []

  def prepare(self) -> None:
    """Makes the inputs, and each stage's results without a kill."""
    inputs = self._inputs
    inputs.mkdir()
    stages.write_inputs(inputs)
    self._must_run(stages.train(inputs), inputs)
    for split in ('calibration', 'test'):
      self._must_run(stages.dump(inputs, split, f'{split}_dump'), inputs)
    for make in (stages.calibrate, stages.evaluate):
      self._must_run(make(inputs), inputs)
    self._stages = [
      stages.train(inputs),
      stages.dump(inputs, 'train'),
      stages.infer(inputs),
      stages.report(inputs),
    ]
    for stage in self._stages:
      # The second time, compiled programs are there, as for those killed.
      for name in ('first', 'expected'):
        run = self._folder / f'{name}-{stage.name}'
        run.mkdir()
        self._seconds[stage.name] = self._must_run(stage, run)
        contents = self._contents(stage, run)
        expected = self._expected.setdefault(stage.name, contents)
        if different := _different(contents, expected):
          raise SystemExit(f'{stage.name} gives other {different} each time.')
      print(f'{stage.name}: {self._seconds[stage.name]:.1f} s', flush=True)

  def run(self, number: int) -> Run:
    """Kills, goes on, compares."""
    stage = self._stages[number % len(self._stages)]
    name = self._random.choice(sorted(_SIGNALS))
    longest = self._seconds[stage.name]
    done = Run(stage.name, name, [], [])
    folder = self._folder / f'run-{number}'
    folder.mkdir()
    for _ in range(self._random.choice((1, 1, 2))):
      moment = self._random.uniform(0, longest)
      done.moments.append(round(moment, 3))
      child = self._start(stage, folder)
      if child.wait(moment):
        # The machine has become faster than it was.
        self._seconds[stage.name] = min(longest, child.seconds)
      else:
        child.send(_SIGNALS[name])
        done.hits += 1
      if not self._ended(child, done, (0, _SAVED, -_SIGNALS[name])):
        return done
    child = self._start(stage, folder)
    if self._ended(child, done, (0,)):
      done.wrong = self._compare(stage, folder)
    if not done.wrong:
      shutil.rmtree(folder)
    return done

  def _ended(self, child, done: Run, expected) -> bool:
    if not child.wait(_MOST_SECONDS):
      child.send(signal.SIGKILL)
      child.wait(_MOST_SECONDS)
      done.wrong = f'it hung for {_MOST_SECONDS} s'
      return False
    done.codes.append(child.code)
    # A command after the one that was faster than its signal.
    if child.code in expected or 0 in done.codes[:-1]:
      return True
    done.wrong = f'exit code {child.code}'
    return False

  def _compare(self, stage, folder) -> str:
    return _different(self._contents(stage, folder), self._expected[stage.name])

  def _start(self, stage, folder) -> forked.Child:
    return forked.Child(forked.calm(stage.argv), folder, folder / 'log.txt')

  def _must_run(self, stage, folder) -> float:
    child = self._start(stage, folder)
    if not child.wait(_MOST_SECONDS) or child.code:
      log = (folder / 'log.txt').read_text(errors='replace')
      raise SystemExit(f'{stage.name} ended with {child.code}:\n{log[-3000:]}')
    return child.seconds

  def _contents(self, stage, folder) -> dict[str, str]:
    """In a child, since checkpoints are read by JAX."""
    path = folder / 'contents.json'

    def write():
      path.write_text(json.dumps(stage.contents(folder)))

    child = forked.Child(write, folder, folder / 'log.txt')
    if not child.wait(_MOST_SECONDS) or child.code:
      return {'unreadable': str(folder / 'log.txt')}
    return json.loads(path.read_text())


def _different(found: dict[str, str], expected: dict[str, str]) -> str:
  """Names of what differs, '' if nothing does."""
  return ', '.join(
    name
    for name in sorted({*found, *expected})
    if found.get(name) != expected.get(name)
  )


def table(runs: list[Run]) -> str:
  """One line a stage and signal."""
  rows = collections.defaultdict(collections.Counter)
  for run in runs:
    row = rows[run.stage, run.signal]
    row['runs'] += 1
    row['signals sent'] += run.hits
    row['identical'] += not run.wrong
  columns = ('runs', 'signals sent', 'identical')
  lines = [f'{"stage":8}{"signal":9}' + ''.join(f'{x:>14}' for x in columns)]
  for (stage, name), row in sorted(rows.items()):
    numbers = ''.join(f'{row[column]:14}' for column in columns)
    lines.append(f'{stage:8}{name:9}{numbers}')
  totals = sum(rows.values(), collections.Counter())
  numbers = ''.join(f'{totals[column]:14}' for column in columns)
  return '\n'.join([*lines, f'{"all":17}{numbers}'])


def main() -> int:
  """Returns 1 if any result differs."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--runs', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--most_minutes', type=float, default=60.0)
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix='kill-matrix-') as name:
    folder = pathlib.Path(name)
    # Read by JAX and matplotlib when they are imported.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'programs'))
    os.environ |= {
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PLATFORMS': 'cpu',
      'MPLBACKEND': 'agg',
      'TF_CPP_MIN_LOG_LEVEL': '2',
    }
    forked.import_everything()
    matrix = Matrix(folder, args.seed)
    matrix.prepare()
    started = time.monotonic()
    runs = []
    for number in range(args.runs):
      if time.monotonic() - started > 60 * args.most_minutes:
        print(f'{args.most_minutes} minutes are over.')
        break
      runs.append(matrix.run(number))
      print(number, dataclasses.asdict(runs[-1]), flush=True)
      if runs[-1].wrong:
        print((folder / f'run-{number}' / 'log.txt').read_text()[-2000:])
  minutes = (time.monotonic() - started) / 60
  print(f'{table(runs)}\n{minutes:.1f} minutes, seed {args.seed}')
  if args.output:
    result = {'seed': args.seed, 'minutes': round(minutes, 1)}
    result['runs'] = [dataclasses.asdict(run) for run in runs]
    args.output.write_text(json.dumps(result, indent=2) + '\n')
  return int(any(run.wrong for run in runs))


if __name__ == '__main__':
  sys.exit(main())
