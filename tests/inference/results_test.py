"""T5X's files of an inference run, taken up by the same job and no other."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from testing import dumps, inference_jobs

from calm_jax import errors
from calm_jax.inference import results
from calm_jax.records import contracts

JOB = inference_jobs.JOB
NAME = 'task-predict.jsonl-00001-of-00003'
TMP = 'tmp-task-00001-of-00003'


class Killed(BaseException):
  pass


def work(directory, job=JOB, *, kill_after=99, overwrite=False, **kwargs):
  """Makes three chunks as a run does; returns the numbers of those made."""
  made = []
  if not overwrite and results.completed(directory, job) is not None:
    return made
  with results.Results(directory, job, **kwargs) as unfinished:
    for index in range(3):
      if not unfinished.has(index):
        if len(made) == kill_after:
          raise Killed
        lines = f'{{"line": {index}}}\n'.encode() * 2
        unfinished.put(index, lines, results.Counts(2, 10, 10 + index))
        made.append(index)
    unfinished.complete(3)
  return made


def content_of(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def kill(directory, after):
  with pytest.raises(Killed):
    work(directory, kill_after=after)


def test_names_are_t5xs(tmp_path):
  kill(tmp_path, 1)
  chunk = f'{NAME}-chunk00000'
  assert os.listdir(tmp_path) == [TMP]
  assert set(os.listdir(tmp_path / TMP)) == {
    *(chunk, f'{chunk}.COMPLETED'),
    *('job.json', 'lock'),
  }
  assert work(tmp_path) == [1, 2]
  assert set(os.listdir(tmp_path)) == {NAME, f'{NAME}.COMPLETED'}


@pytest.mark.parametrize('after', [0, 1, 2])
def test_an_interruption_changes_no_byte(after, tmp_path):
  work(tmp_path / 'once')
  lines = (tmp_path / 'once' / NAME).read_text().split()
  assert len(lines) == 12 and lines[::4] == ['{"line":'] * 3
  kill(tmp_path / 'twice', after)
  assert work(tmp_path / 'twice') == list(range(after, 3))
  assert content_of(tmp_path / 'twice') == content_of(tmp_path / 'once')


def test_fault_55_a_killed_process_leaves_what_it_had_finished(tmp_path):
  """SIGKILL, so that nothing of ours can tidy up."""
  program = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})
from calm_jax.inference import results
from calm_jax.records import contracts
from testing import dumps, inference_jobs
unfinished = results.Results({str(tmp_path / 'twice')!r}, inference_jobs.JOB)
unfinished.put(0, b'{{"line": 0}}\\n' * 2, results.Counts(2, 10, 10))
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
    with pytest.raises(errors.ResourceError, match='Another process'):
      work(tmp_path / 'twice')
    process.kill()
  assert work(tmp_path / 'twice') == [1, 2]
  work(tmp_path / 'once')
  assert content_of(tmp_path / 'twice') == content_of(tmp_path / 'once')


@pytest.mark.parametrize(
  'left',
  [
    lambda chunk, marker: marker.unlink(),
    lambda chunk, marker: chunk.unlink(),
    lambda chunk, marker: chunk.write_bytes(chunk.read_bytes()[:-1]),
    lambda chunk, marker: marker.write_text('{'),
    lambda chunk, marker: (chunk.parent / '.x.1.tmp').write_text('half'),
  ],
)
def test_what_is_not_finished_is_made_again(left, tmp_path):
  work(tmp_path / 'once')
  kill(tmp_path / 'twice', 2)
  chunk = tmp_path / 'twice' / TMP / f'{NAME}-chunk00001'
  left(chunk, chunk.with_name(chunk.name + '.COMPLETED'))
  made = work(tmp_path / 'twice')
  assert 2 in made and 0 not in made
  assert content_of(tmp_path / 'twice') == content_of(tmp_path / 'once')


@pytest.mark.parametrize(
  'field',
  [x.name for x in dataclasses.fields(JOB) if x.name != 'schema_version'],
)
def test_other_settings_are_refused_half_way_and_at_the_end(field, tmp_path):
  value = getattr(JOB, field)
  other = {
    str: lambda: value + '2',
    int: lambda: value + 1,
    float: lambda: value / 2,
    dict: lambda: {'jax': '2'},
    tuple: lambda: (1,),
    contracts.ModelDescription: lambda: dumps.make_model(max_decode_length=7),
  }[type(value)]()
  job = dataclasses.replace(JOB, **{field: other})
  kill(tmp_path, 1)
  if field in ('task', 'shard_id', 'num_shards', 'command'):
    # Other files, or no other bytes.
    assert work(tmp_path, job) == ([1, 2] if field == 'command' else [0, 1, 2])
    return
  told = {'versions': 'versions.jax', 'model': 'max_decode_length'}
  field = told.get(field, field)
  said = rf'other settings \({field}\); {field} was .* and is now'
  with pytest.raises(errors.DataError, match=said):
    work(tmp_path, job)
  assert work(tmp_path) == [1, 2], 'it was left as it was'
  if field == 'mode':  # T5X's modes share a folder, but no file.
    return
  with pytest.raises(errors.DataError, match=rf'is complete.*\({field}\)'):
    work(tmp_path, job)
  assert work(tmp_path, job, overwrite=True) == [0, 1, 2]


def test_a_complete_file_is_left_alone(tmp_path):
  work(tmp_path)
  before = content_of(tmp_path)
  assert work(tmp_path) == []
  # As left by a kill between the marker and the removal.
  (tmp_path / TMP).mkdir()
  assert work(tmp_path) == [] and content_of(tmp_path) == before


def test_a_complete_file_that_is_damaged_is_replaced_when_asked(tmp_path):
  work(tmp_path)
  before = content_of(tmp_path)
  (tmp_path / NAME).write_bytes(before[NAME][:-1])
  with pytest.raises(errors.DataError, match='truncated.*--overwrite'):
    work(tmp_path)
  assert work(tmp_path, overwrite=True) == [0, 1, 2]
  assert content_of(tmp_path) == before


def test_a_marker_that_knows_no_digest_is_believed(tmp_path):
  """As older versions wrote them."""
  work(tmp_path)
  marker = tmp_path / f'{NAME}.COMPLETED'
  fields = json.loads(marker.read_text())
  assert fields.pop('sha256') and fields.pop('record_sha256')
  marker.write_text(json.dumps(fields))
  assert work(tmp_path) == []


def test_asking_for_a_complete_file_leaves_another_jobs_chunks(tmp_path):
  work(tmp_path)
  other = dataclasses.replace(JOB, threshold=0.5)
  with pytest.raises(Killed):
    work(tmp_path, other, overwrite=True, kill_after=2)
  assert work(tmp_path) == []
  assert work(tmp_path, other, overwrite=True) == [2], 'two were kept'


def test_what_t5x_has_completed_is_not_replaced_unasked(tmp_path):
  (tmp_path / NAME).write_text('{}\n')
  (tmp_path / f'{NAME}.COMPLETED').touch()
  with pytest.raises(errors.DataError, match='--overwrite replaces'):
    work(tmp_path)
  assert (tmp_path / NAME).read_text() == '{}\n'
  assert work(tmp_path, overwrite=True) == [0, 1, 2]


def test_overwriting_keeps_the_old_file_until_the_new_one_is_complete(tmp_path):
  work(tmp_path)
  before = content_of(tmp_path)
  with pytest.raises(Killed):
    work(tmp_path, overwrite=True, kill_after=2)
  assert {x: (tmp_path / x).read_bytes() for x in before} == before
  assert work(tmp_path, overwrite=True) == [2]
  assert content_of(tmp_path) == before


def test_restart_begins_anew_with_other_settings(tmp_path):
  kill(tmp_path, 2)
  other = dataclasses.replace(JOB, threshold=0.5)
  assert work(tmp_path, other, restart=True) == [0, 1, 2]


def test_counts_are_summed_also_over_chunks_of_an_earlier_run(tmp_path):
  kill(tmp_path, 2)
  work(tmp_path)
  assert results.completed(tmp_path, JOB) == results.Counts(6, 30, 33)


def test_two_processes_do_not_write_the_same_file(tmp_path):
  with results.Results(tmp_path, JOB):
    with pytest.raises(errors.ResourceError, match='Another process'):
      work(tmp_path)


@pytest.mark.parametrize('task', ['a/b', '../a', '', 'a\\b', 'a\0'])
def test_fault_64_a_name_that_leads_out_of_the_folder_is_refused(task):
  with pytest.raises(errors.ConfigError, match='without slashes'):
    dataclasses.replace(JOB, task=task)


def test_a_share_must_be_one_of_them():
  with pytest.raises(errors.ConfigError, match='from 0 to num_shards - 1 = 2'):
    dataclasses.replace(JOB, shard_id=3)
