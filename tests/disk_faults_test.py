"""Full disks, folders that nobody may write to, and two runs in one folder.

Each writer of a stage's results: it refuses in one sentence, what was there
stays as it was, and once there is room the same call gives what it would have.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import resource
import shutil
import socket
import tempfile

import numpy as np
import pytest
from testing import dumps, inference_jobs

from calm_jax import errors
from calm_jax.checkpoints import orbax_io
from calm_jax.dump import partial
from calm_jax.inference import results
from calm_jax.records import folder_lock, json_records
from calm_jax.report import page_files

_NOBODY = 65534


# --- Writers: a version of the same results in a folder -----------------------


def write_record(folder, version):
  record = results.Counts(version, 10**20, 10**20)
  json_records.write_json_atomically(folder / 'calibration.json', record)


def write_dump(folder, version):
  manifest, data = dumps.make_dump(20, command=f'{version}')
  job = partial.Job(
    header=manifest,
    examples_digest=f'{version}',
    examples_per_shard=20,
    thresholds_per_pass=3,
    rows=4,
  )
  with partial.PartialDump(folder / 'dump', job, overwrite=True) as begun:
    begun.put(0, data)
    begun.complete(3, '')


def write_inference(folder, version):
  job = dataclasses.replace(
    inference_jobs.JOB,
    shard_id=0,
    num_shards=1,
    num_examples=1,
    batch_size=1,
    examples_digest=f'{version}',
  )
  with results.Results(folder, job) as begun:
    begun.put(0, b'%d' % version * 1000, results.Counts(1, 1, 1))
    begun.complete(1)


def write_report(folder, version):
  files = {'curves.csv': b'1' * 1000, 'index.html': b'%d' % version * 1000}
  page_files.write_all(folder / 'report', files)


def weights(version):
  # Noise, because Orbax compresses.
  return np.random.default_rng(version).normal(size=5000).astype(np.float32)


def write_checkpoint(folder, version):
  store = orbax_io.CheckpointStore(folder / 'model')
  try:
    store.save(version, {'params': {'w': weights(version)}})
  finally:
    store.close()


WRITERS = (write_record, write_dump, write_inference, write_report)
every_writer = pytest.mark.parametrize(
  'write', WRITERS, ids=lambda write: write.__name__
)


def content_of(folder):
  """Bytes by name, of all but locks."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file() and path.name != folder_lock.LOCK
  }


# --- A full disk --------------------------------------------------------------


@contextlib.contextmanager
def room_for(num_bytes):
  """No file can grow beyond that; what is written then is refused."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@every_writer
@pytest.mark.parametrize('num_bytes', [0, 50])
def test_fault_52_a_full_disk(write, num_bytes, tmp_path):
  write(tmp_path / 'expected', 2)
  write(tmp_path / 'it', 1)
  before = content_of(tmp_path / 'it')
  with room_for(num_bytes):
    with pytest.raises(errors.ResourceError, match='Cannot write.*Free space'):
      write(tmp_path / 'it', 2)
  assert content_of(tmp_path / 'it') == before
  write(tmp_path / 'it', 2)
  assert content_of(tmp_path / 'it') == content_of(tmp_path / 'expected')


def test_fault_52_a_full_disk_keeps_earlier_checkpoints(tmp_path):
  write_checkpoint(tmp_path, 1)
  with room_for(1000):
    with pytest.raises(
      errors.ResourceError, match='checkpoint_2.*: File too large'
    ):
      write_checkpoint(tmp_path, 2)
  model_dir = tmp_path / 'model'
  found = orbax_io.restore_params(model_dir)['w']
  np.testing.assert_array_equal(found, weights(1))
  write_checkpoint(tmp_path, 2)
  found = orbax_io.restore_params(model_dir)['w']
  np.testing.assert_array_equal(found, weights(2))
  assert sorted(x.name for x in model_dir.iterdir()) == [
    'checkpoint_1',
    'checkpoint_2',
  ]


# --- A folder to be read only -------------------------------------------------


@pytest.fixture
def read_only():
  """(folder, context in which it cannot be written); root becomes nobody."""
  folder = pathlib.Path(tempfile.mkdtemp())
  folder.chmod(0o755)

  @contextlib.contextmanager
  def forbidden():
    if os.geteuid():
      folder.chmod(0o555)
      yield
      return
    os.seteuid(_NOBODY)
    try:
      yield
    finally:
      os.seteuid(0)

  yield folder, forbidden
  folder.chmod(0o755)
  shutil.rmtree(folder)


@pytest.mark.parametrize(
  'write', [*WRITERS, write_checkpoint], ids=lambda write: write.__name__
)
def test_fault_52_a_folder_to_be_read_only(write, read_only):
  folder, forbidden = read_only
  with forbidden():
    with pytest.raises(errors.ResourceError, match='Permission denied'):
      write(folder, 1)
  assert not list(folder.iterdir())


@pytest.mark.parametrize(
  'write', [*WRITERS, write_checkpoint], ids=lambda write: write.__name__
)
def test_fault_52_a_file_in_the_place_of_a_folder(write, tmp_path):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(errors.ResourceError, match='directory'):
    write(tmp_path / 'file', 1)
  assert content_of(tmp_path) == {'file': b'mine'}


# --- Two runs in one folder ---------------------------------------------------


def test_fault_56_the_owner_of_a_folder_and_for_how_long(tmp_path):
  lock = folder_lock.lock(tmp_path, 'dump')
  path = tmp_path / folder_lock.LOCK
  begun = path.stat().st_mtime - 300
  os.utime(path, (begun, begun))
  owner = f'(process {os.getpid()} on {socket.gethostname()}, for 5.'
  for _ in range(2):  # Who was refused does not become the owner.
    with pytest.raises(errors.ResourceError, match=re.escape(owner)):
      folder_lock.lock(tmp_path, 'dump')
  lock.close()
  assert path.read_bytes() == b''
  folder_lock.lock(tmp_path, 'dump').close()


@pytest.mark.parametrize('change', [os.rename, None])
def test_fault_56_a_folder_that_goes_while_it_is_locked(
  change, tmp_path, monkeypatch
):
  """Its holder renames or removes it, and then lets go."""
  folder, flock, locked = tmp_path / 'folder', fcntl.flock, []

  def late(file, how):
    if not locked:
      if change:
        change(folder, tmp_path / 'complete')
      else:
        shutil.rmtree(folder)
    locked.append(file)
    flock(file, how)

  monkeypatch.setattr(fcntl, 'flock', late)
  lock = folder_lock.lock(folder, 'dump')
  monkeypatch.undo()
  assert len(locked) == 2
  with pytest.raises(errors.ResourceError, match='Another process'):
    folder_lock.lock(folder, 'dump')
  lock.close()


@pytest.mark.parametrize(
  ('write', 'held'),
  [
    (write_dump, 'dump.partial'),
    (write_inference, 'tmp-task-00000-of-00001'),
    (write_report, 'report/.report'),
  ],
)
def test_fault_56_two_runs_in_one_folder(write, held, tmp_path):
  write(tmp_path, 1)
  before = content_of(tmp_path)
  (tmp_path / held).mkdir()
  lock = folder_lock.lock(tmp_path / held, 'folder')
  with pytest.raises(errors.ResourceError, match='Another process'):
    write(tmp_path, 2)
  assert content_of(tmp_path) == before
  lock.close()
  write(tmp_path, 2)
  assert content_of(tmp_path) != before


def test_what_a_killed_report_left_is_removed(tmp_path):
  left = tmp_path / 'report' / '.report'
  left.mkdir(parents=True)
  (left / 'old.png').write_bytes(b'half')
  write_report(tmp_path, 1)
  assert sorted(os.listdir(tmp_path / 'report')) == ['curves.csv', 'index.html']


def test_a_link_in_the_place_of_unfinished_files_is_not_followed(tmp_path):
  (tmp_path / 'report').mkdir()
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere' / 'index.html').write_text('mine')
  (tmp_path / 'report' / '.report').symlink_to(tmp_path / 'elsewhere')
  write_report(tmp_path, 1)
  assert (tmp_path / 'elsewhere' / 'index.html').read_text() == 'mine'
