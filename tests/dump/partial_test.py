"""An unfinished dump is taken up by the same job, and by no other."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.dump import partial, reader
from calm_jax.records import contracts

# Of this file and of `testing`, for other processes.
PATHS = [str(folder) for folder in pathlib.Path(__file__).parents[:2]]
G, T, L = 2, 3, 2
JOB = partial.Job(
  header=dumps.make_manifest(
    task='task',
    thresholds=(1.0, 0.5),
    num_decoder_layers=L,
    max_decode_length=T,
    command='calm dump --split=calibration',
  ),
  examples_digest='e',
  examples_per_shard=2,
  thresholds_per_pass=G,
  rows=128,
)


def make_shard(index):
  return contracts.Dump(
    example_ids=np.array([f'{index}-{i}' for i in range(2)]),
    sources=np.array(['a source'] * 2),
    references=np.array(['a reference'] * 2),
    predictions=np.array([[f'shard {index}', 'other']] * 2),
    tokens=np.full((2, G, T), 7 + index, np.int32),
    num_layers_used=np.full((2, G, T), L, np.int8),
    confidences=np.full((2, G, T), 0.5, np.float32),
    trace_confidences=np.full((2, T, L), 0.5, np.float32),
    trace_tokens=np.full((2, T, L), 7, np.int32),
  )


def begun(directory, *indices):
  """Leaves shards behind, as a run that was interrupted after them."""
  with partial.PartialDump(directory, JOB) as unfinished:
    for index in indices:
      unfinished.put(index, make_shard(index))


def finish(directory, job=JOB, **kwargs):
  """Makes what is missing; returns the indices of what was there."""
  found = []
  with partial.PartialDump(directory, job, **kwargs) as unfinished:
    for index in range(3):
      if unfinished.shard(index) is None:
        unfinished.put(index, make_shard(index))
      else:
        found.append(index)
    unfinished.complete(G, stopped='')
  return found


def content_of(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_interruption_changes_no_byte(tmp_path):
  assert finish(tmp_path / 'once') == []
  begun(tmp_path / 'twice', 0, 1)
  with pytest.raises(errors.DataError, match='does not exist'):
    reader.read_dump(tmp_path / 'twice')
  assert finish(tmp_path / 'twice') == [0, 1]
  assert content_of(tmp_path / 'twice') == content_of(tmp_path / 'once')
  assert sorted(os.listdir(tmp_path)) == ['once', 'twice']
  assert reader.read_dump(tmp_path / 'twice')[1].num_examples == 6


def test_a_killed_process_leaves_what_it_had_finished(tmp_path):
  """SIGKILL, so that nothing of ours can tidy up."""
  program = f"""
import sys
sys.path[:0] = {PATHS}
import partial_test as t
with t.partial.PartialDump({str(tmp_path / 'dump')!r}, t.JOB) as unfinished:
  unfinished.put(0, t.make_shard(0))
  print('written', flush=True)
  sys.stdin.read()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'written\n'
    # As long as it lives, the dump is its own.
    with pytest.raises(errors.ResourceError, match='Another process'):
      finish(tmp_path / 'dump')
    process.kill()
  (tmp_path / 'dump.partial' / '.shard-00001.npz.1.tmp').write_bytes(b'half')
  assert finish(tmp_path / 'dump') == [0]
  finish(tmp_path / 'once')
  assert content_of(tmp_path / 'dump') == content_of(tmp_path / 'once')


def test_a_damaged_shard_is_made_again(tmp_path):
  begun(tmp_path / 'dump', 0, 1)
  path = tmp_path / 'dump.partial' / 'shard-00000.npz'
  path.write_bytes(path.read_bytes()[:-100])
  assert finish(tmp_path / 'dump') == [1]
  reader.read_dump(tmp_path / 'dump')


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('params_digest', 'other'),
    ('vocabulary_digest', 'other'),
    ('measure', dumps.choice('Patience')),
    ('threshold_schedule', dumps.choice('DecayingThreshold', temperature=2.0)),
    ('exit_layers', (2,)),
    ('skipped_layers', dumps.choice('FirstExitState')),
    (
      'output_length',
      dumps.choice('ProportionalLength', ratio=1.0, extra=0),
    ),
    ('decode_fn', dumps.choice('BeamSearch', alpha=0.6)),
    ('inputs_length', 9),
    ('eos_id', 2),
    ('data_digest', 'other'),
    ('thresholds', (1.0, 0.4)),
    ('split', 'test'),
    ('versions', {'jax': '1'}),
  ],
)
def test_another_dump_is_refused(field, value, tmp_path):
  begun(tmp_path / 'dump', 0)
  header = dumps.replaced(JOB.header, **{field: value})
  other = dataclasses.replace(JOB, header=header)
  with pytest.raises(errors.DataError, match=rf'other settings \({field}\)'):
    finish(tmp_path / 'dump', other)
  assert finish(tmp_path / 'dump') == [0], 'it was left as it was'


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('examples_digest', 'other'),
    ('examples_per_shard', 3),
    ('thresholds_per_pass', 1),
    ('rows', 64),
    ('rows_per_pack', (1,)),
    ('stopping', 'rule'),
    ('num_examples', 6),
  ],
)
def test_another_job_is_refused(field, value, tmp_path):
  begun(tmp_path / 'dump', 0)
  other = dataclasses.replace(JOB, **{field: value})
  with pytest.raises(errors.DataError, match=rf'\({field}\).*restart'):
    finish(tmp_path / 'dump', other)
  assert finish(tmp_path / 'dump', other, restart=True) == []


def test_the_first_command_is_kept(tmp_path):
  begun(tmp_path / 'dump', 0)
  header = dataclasses.replace(JOB.header, command='calm dump --overwrite')
  assert finish(tmp_path / 'dump', dataclasses.replace(JOB, header=header))
  manifest = reader.read_manifest(tmp_path / 'dump')
  assert manifest.command == JOB.header.command


def test_nothing_is_left_of_a_run_without_shards(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    with partial.PartialDump(tmp_path / 'dump', JOB):
      raise KeyboardInterrupt
  assert os.listdir(tmp_path) == []
  with pytest.raises(errors.DataError, match='at least one example'):
    with partial.PartialDump(tmp_path / 'dump', JOB) as unfinished:
      unfinished.complete(G, stopped='')
  assert os.listdir(tmp_path) == []


def test_a_dump_that_is_there_is_kept_until_the_new_one_is_complete(tmp_path):
  old = dumps.write_dump(tmp_path / 'dump', JOB.header, [make_shard(9)])
  with pytest.raises(errors.DataError, match='already holds'):
    finish(tmp_path / 'dump')
  with partial.PartialDump(
    tmp_path / 'dump', JOB, overwrite=True
  ) as unfinished:
    unfinished.put(0, make_shard(0))
  assert reader.read_manifest(tmp_path / 'dump') == old
  assert finish(tmp_path / 'dump', overwrite=True) == [0]
  assert reader.read_manifest(tmp_path / 'dump').num_examples == 6
  assert os.listdir(tmp_path) == ['dump']


def test_a_complete_dump_is_known_by_its_job(tmp_path):
  directory = tmp_path / 'dump'
  assert partial.completed(directory, JOB) is None
  begun(directory, 0)
  assert partial.completed(directory, JOB) is None
  finish(directory)
  before = content_of(directory)
  header = dataclasses.replace(JOB.header, command='calm dump ')
  again = dataclasses.replace(JOB, header=header)
  manifest = reader.read_manifest(directory)
  assert partial.completed(directory, again) == manifest
  said = r'is complete.*\(rows\); rows was 128 and is now 64;.*--overwrite'
  with pytest.raises(errors.DataError, match=said):
    partial.completed(directory, dataclasses.replace(JOB, rows=64))
  assert content_of(directory) == before


def test_a_manifest_of_another_run_is_not_believed(tmp_path):
  finish(tmp_path / 'dump')
  path = tmp_path / 'dump' / 'manifest.json'
  manifest = reader.read_manifest(tmp_path / 'dump')
  job = dataclasses.replace(JOB, num_examples=6)
  for changes in (
    {'params_digest': 'of another model'},
    {'thresholds': (1.0,)},
    {'thresholds': (1.0, 0.4), 'stopped': 'enough'},
    {'shards': manifest.shards[:1], 'num_examples': 2},
  ):
    contracts.write_json_atomically(tmp_path / 'dump' / 'job.json', job)
    contracts.write_json_atomically(path, dumps.replaced(manifest, **changes))
    with pytest.raises(errors.DataError, match='of one run.*--overwrite'):
      partial.completed(tmp_path / 'dump', job)
  stopped = dataclasses.replace(manifest, thresholds=(1.0,), stopped='enough')
  contracts.write_json_atomically(path, stopped)
  assert partial.completed(tmp_path / 'dump', job) == stopped


def test_a_dump_that_another_run_completed_meanwhile_is_kept(tmp_path):
  directory = tmp_path / 'dump'
  with partial.PartialDump(directory, JOB) as unfinished:
    unfinished.put(0, make_shard(0))
    finish(tmp_path / 'other')
    os.rename(tmp_path / 'other', directory)
    before = content_of(directory)
    with pytest.raises(errors.DataError, match='already holds a complete'):
      unfinished.complete(G, stopped='')
  assert content_of(directory) == before


@pytest.mark.parametrize('version', [None, 1])
def test_an_unfinished_dump_of_an_older_version_is_refused(version, tmp_path):
  """Its job had measures as text, and in version 1 no version of its own."""
  begun(tmp_path / 'dump', 0)
  path = tmp_path / 'dump.partial' / 'job.json'
  fields = json.loads(path.read_text()) | {'schema_version': version}
  fields['header']['measure'] = 'SoftmaxTopTwoGap()'
  path.write_text(json.dumps(fields))
  said = f'schema version {version}, .* reads version 2; .*--restart'
  with pytest.raises(errors.DataError, match=said):
    finish(tmp_path / 'dump')
  assert finish(tmp_path / 'dump', restart=True) == []


def test_a_complete_dump_of_an_older_version_is_refused(tmp_path):
  """It names no job."""
  finish(tmp_path / 'dump')
  (tmp_path / 'dump' / 'job.json').unlink()
  assert partial.completed(tmp_path / 'dump', JOB) is None
  with pytest.raises(errors.DataError, match='already holds'):
    finish(tmp_path / 'dump')


@pytest.mark.parametrize(
  'name', ['job.json', 'manifest.json', 'shard-00001.npz']
)
def test_a_complete_dump_that_is_damaged_is_replaced_when_asked(name, tmp_path):
  finish(tmp_path / 'dump')
  before = content_of(tmp_path / 'dump')
  path = tmp_path / 'dump' / name
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(errors.DataError, match=f'{name}.*--overwrite'):
    partial.completed(tmp_path / 'dump', JOB)
  finish(tmp_path / 'dump', overwrite=True)
  assert content_of(tmp_path / 'dump') == before


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_fault_55_a_kill_at_the_last_rename(moment, tmp_path):
  program = f"""
import os, pathlib, sys
sys.path[:0] = {PATHS}
import partial_test as t
rename = pathlib.Path.rename
def killed(path, target):
  if {moment == 'after'}:
    rename(path, target)
  os._exit(9)
pathlib.Path.rename = killed
t.finish({str(tmp_path / 'dump')!r})
"""
  killed = subprocess.run([sys.executable, '-c', program], check=False)
  assert killed.returncode == 9
  # As of a run with --overwrite.
  os.makedirs(tmp_path / 'dump.replaced')
  there = partial.completed(tmp_path / 'dump', JOB)
  if moment == 'before':
    assert there is None and finish(tmp_path / 'dump') == [0, 1, 2]
  assert reader.read_dump(tmp_path / 'dump')[0] == (
    there or partial.completed(tmp_path / 'dump', JOB)
  )
  finish(tmp_path / 'once')
  assert content_of(tmp_path / 'dump') == content_of(tmp_path / 'once')
  assert sorted(os.listdir(tmp_path)) == ['dump', 'once']


def test_an_example_belongs_to_one_shard(tmp_path):
  with partial.PartialDump(tmp_path / 'dump', JOB) as unfinished:
    unfinished.put(0, make_shard(0))
    unfinished.put(0, make_shard(0))
    with pytest.raises(errors.DataError, match='0-0.*come twice'):
      unfinished.put(1, make_shard(0))


def test_other_files_are_never_removed(tmp_path):
  folder = tmp_path / 'dump.partial'
  folder.mkdir()
  (folder / 'thesis.tex').touch()
  with pytest.raises(errors.DataError, match='thesis.tex'):
    finish(tmp_path / 'dump')
  assert os.listdir(folder) == ['thesis.tex']
