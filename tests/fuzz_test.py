"""Every file that a stage reads, cut short and flipped at many places.

Allowed are the same result and an error of ours; where a file carries a digest,
nothing else. Where it carries none (a user's own text), its words may differ,
but nothing may break or hang. Checkpoints: tests/checkpoints/damage_test.py.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import gin
import numpy as np
import pytest
from testing import dumps, inference_jobs

from calm_jax import calibration, errors
from calm_jax.checkpoints import bundle
from calm_jax.config import gin_setup, saved_config
from calm_jax.data import file_tasks, vocabulary
from calm_jax.dump import partial, reader, shards
from calm_jax.inference import results, sources
from calm_jax.records import contracts, json_records
from calm_jax.training import best, evaluations, writers

PLACES = 48  # at least, of each kind of damage, spread over the file
CUT_AT_EACH = 64  # bytes

pytestmark = pytest.mark.timeout(120)


@dataclasses.dataclass
class Target:
  """A file and what it is read for.

  Attributes:
    path: of the file.
    read: gives something to compare.
    is_checked: whether damage must be found.
  """

  path: pathlib.Path
  read: Callable[[], Any]
  is_checked: bool = True


# --- What is read -------------------------------------------------------------


def dump_shard(tmp_path):
  path = tmp_path / 'dump' / 'shard-00000.npz'
  write_dump(tmp_path)
  return Target(path, lambda: arrays_of(reader.read_dump(path.parent)[1]))


def unfinished_shard(tmp_path):
  """No digest speaks for it before the dump is complete; its CRCs do."""
  path = tmp_path / 'dump' / 'shard-00000.npz'
  write_dump(tmp_path)
  return Target(
    path, lambda: arrays_of(shards.from_bytes(path.read_bytes(), path))
  )


def dump_manifest(tmp_path):
  write_dump(tmp_path)
  path = tmp_path / 'dump' / 'manifest.json'
  return Target(path, lambda: reader.read_manifest(path.parent))


def calibration_result(tmp_path):
  path = tmp_path / 'calibration.json'
  result = calibration.calibrate_dump(
    dumps.make_dump(200), 'textual', 0.1, 0.05
  )
  contracts.write_json_atomically(path, result)
  return Target(
    path, lambda: contracts.read_json(path, contracts.CalibrationResult)
  )


def unfinished_job(tmp_path):
  path = tmp_path / 'dump.partial' / 'job.json'
  job = partial.Job(
    header=dumps.make_dump(8)[0],
    examples_digest='e',
    examples_per_shard=4,
    thresholds_per_pass=3,
    rows=4,
  )
  json_records.write_json_atomically(path, job)
  return Target(path, lambda: json_records.read_json(path, partial.Job))


def best_checkpoint(tmp_path):
  path = tmp_path / best.FILE_NAME
  rule = best.BestCheckpoint('training_eval/accuracy')
  history = best.History(rule, tmp_path, 10)
  for step, value in ((1, 0.25), (2, 0.75), (3, 0.5)):
    history.add(step, {'training_eval/accuracy': value})
  return Target(path, lambda: best.History(rule, tmp_path, 10).best)


def evaluated_steps(tmp_path):
  steps = evaluations.EvaluatedSteps(tmp_path, 9)
  for step in (2, 4, 9):
    steps.add(step)
  return Target(
    tmp_path / evaluations.FILE_NAME,
    lambda: evaluations.EvaluatedSteps(tmp_path, 9)._steps,
  )


def complete_marker(tmp_path):
  """Of an inference run: what it says of the file beside it."""
  job = inference_jobs.JOB
  with results.Results(tmp_path, job) as begun:
    begun.put(0, b'{}\n', results.Counts(1, 2, 3))
    begun.complete(1)

  path = tmp_path / f'{job.file_name}.COMPLETED'
  return Target(path, lambda: results.completed(tmp_path, job))


def model_config(tmp_path):
  """A folder whose small files are copied, its weights as they are."""
  shipped = bundle.default_bundle_path()
  fields = json_records.read_json(shipped / 'config.json', bundle._ConfigFile)
  path = tmp_path / 'config.json'
  json_records.write_json_atomically(path, fields)
  return Target(path, lambda: json_records.read_json(path, bundle._ConfigFile))


def saved_configuration(tmp_path):
  """The bindings that decide whether a run may be taken up."""
  (tmp_path / 'checkpoint_1').mkdir()
  path = tmp_path / saved_config.FILE_NAME
  text = '# Macros:\nBATCH_SIZE = 8\nNAMES = \\\n    ("a", "b")\n\nSEED = 0\n'
  path.write_text(text)

  def read():
    saved_config.check_continues(tmp_path, text)
    return 'the same bindings'

  return Target(path, read)


def metrics_log(tmp_path):
  """Lines after the step of a checkpoint are dropped on resuming."""
  path = tmp_path / 'metrics.jsonl'
  path.write_text(''.join(f'{{"step": {i}, "loss": 0.5}}\n' for i in range(9)))

  def read():
    content = path.read_bytes()
    writers.drop_entries_after(path, 5)
    kept = path.read_bytes()
    path.write_bytes(content)
    return kept

  return Target(path, read, is_checked=False)


def tsv_task(tmp_path):
  return text_task(tmp_path, 'question\tanswer\n', '{0}?\tNaïve {0}.\n', 'tsv')


def jsonl_task(tmp_path):
  line = '{{"question": "\\u00e9 {0}?", "answer": "Naïve {0}."}}\n'
  return text_task(tmp_path, '', line, 'jsonl')


def text_task(tmp_path, first, line, suffix):
  path = tmp_path / f'task.{suffix}'
  lines = first + ''.join(map(line.format, range(30)))
  path.write_text(lines, encoding='utf-8')
  task = file_tasks.FileTask(
    name='task', files={'train': str(path)}, inputs='question', targets='answer'
  )
  return Target(path, lambda: task.load('train'), is_checked=False)


def text_lines(tmp_path):
  path = tmp_path / 'lines.txt'
  path.write_text('it works\nnaïve words\n' * 20, encoding='utf-8')
  task = 'docstring_restoration'
  return Target(path, lambda: sources.read_file(path, task), is_checked=False)


def gin_file(tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text(
    '# Mine.\n'
    'from __gin__ import dynamic_registration\n'
    'from calm_jax.early_exit.engine import schedule\n\n'
    "SIZES = {'inputs': 16, 'targets': (8, 4.0)}\n"
    'NAME = "a \\"name\\""\n'
    'NUMBER = 0.5\n'
    'schedule.DecayingThreshold:\n'
    '  temperature = %NUMBER\n'
  )

  def read():
    gin_setup.parse([str(path)], [], stage_macros={'SIZES', 'NAME'})
    return gin.config_str()

  return Target(path, read, is_checked=False)


def sentencepiece_model(tmp_path):
  path = tmp_path / 'sentencepiece.model'
  shutil.copy(vocabulary.DEFAULT_PATH, path)

  def read():
    tokenizer = vocabulary.Tokenizer(path)
    ids = tokenizer.encode('It returns naïve words, or None.')
    return tokenizer.digest, ids, tokenizer.decode(ids), tokenizer.pieces(ids)

  return Target(path, read, is_checked=False)


TARGETS = (
  dump_shard,
  unfinished_shard,
  dump_manifest,
  calibration_result,
  unfinished_job,
  best_checkpoint,
  evaluated_steps,
  complete_marker,
  model_config,
  saved_configuration,
  metrics_log,
  tsv_task,
  jsonl_task,
  text_lines,
  gin_file,
  sentencepiece_model,
)


def write_dump(tmp_path):
  manifest, data = dumps.make_dump(12)
  dumps.write_dump(tmp_path / 'dump', manifest, [data])


def arrays_of(dump):
  return {
    name: (array.dtype.str, array.shape, array.tobytes())
    for name, array in dump.arrays().items()
  }


# --- How it is damaged --------------------------------------------------------


def damages(content):
  """Names and damaged copies."""
  length = len(content)
  places = sorted({int(x) for x in np.linspace(0, length - 1, PLACES)})
  cuts = {*places, *range(0, length, max(CUT_AT_EACH, length // 200))}
  for place in sorted(cuts):
    yield f'cut to {place} bytes', content[:place]
  for place in places:
    for bits in (0x01, 0x04, 0x20, 0x80):
      flipped = bytearray(content)
      flipped[place] ^= bits
      yield f'byte {place} ^ {bits:#x}', bytes(flipped)
    yield f'byte {place} is lost', content[:place] + content[place + 1 :]
    yield f'NUL at {place}', content[:place] + b'\0' + content[place:]
  yield 'repeated', content * 2
  yield 'empty lines before', b'\n \n' + content
  yield 'nested too deeply', b'[' * 10**5
  yield 'a number too long', b'1' * 10**5


@pytest.mark.parametrize('make', TARGETS, ids=lambda make: make.__name__)
def test_damage_is_refused_or_harmless(make, tmp_path):
  target = make(tmp_path)
  expected, content = target.read(), target.path.read_bytes()
  tried = refused = 0
  wrong = []
  for what, damaged in damages(content):
    target.path.write_bytes(damaged)
    tried += 1
    try:
      found = target.read()
    except errors.CalmError as error:
      assert str(error), what
      refused += 1
    except Exception as error:
      wrong.append(f'{what}: {type(error).__name__}: {error}')
    else:
      if target.is_checked and found != expected:
        wrong.append(f'{what}: another result')
  assert not wrong, f'{len(wrong)} of {tried}: {wrong[:10]}'
  assert refused > PLACES or not target.is_checked
  target.path.write_bytes(content)
  assert target.read() == expected
