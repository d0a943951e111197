"""Every wrong input of a calibration: an exit code, one sentence, no output.

Numbered as in the project's list of faults.
"""

import hashlib
import json
import math
import zipfile

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import threshold_selection
from calm_jax.cli import dump, main
from calm_jax.evaluation import checks
from calm_jax.records import contracts


def broken(prediction, reference):
  return math.nan if prediction == 'qqq' else 1.0


@pytest.mark.parametrize(
  ('flags', 'messages'),
  [
    (['--tolerance=0'], ['tolerance', 'delta in CALM', 'alpha in Learn']),
    (['--tolerance=1'], ['tolerance']),
    (['--tolerance=nan'], ['tolerance', 'nan']),
    (['--failure_prob=1.5'], ['failure_prob', 'epsilon in CALM', 'delta in L']),
    (['--failure_prob=nan'], ['failure_prob']),
    # A confidence instead, and the two swapped.
    (['--failure_prob=0.95'], ['0.95 it is 0.05', 'epsilon in CALM']),
    (
      ['--tolerance=0.05', '--failure_prob=0.9'],
      ['the two are swapped: 0.9 is the tolerance', 'alpha in Learn'],
    ),
  ],
)
def test_fault_12_tolerance_or_failure_prob_out_of_range(
  run_calibrate, flags, messages
):
  code, _, error = run_calibrate(*flags)
  assert code == 2
  for message in messages:
    assert message in error


def test_fault_12_a_quality_given_as_tolerance_is_allowed_but_told(
  run_calibrate,
):
  code, out, _ = run_calibrate('--tolerance=0.9')
  assert code == 0 and 'to keep 0.9 of the quality, it is 0.1' in out


@pytest.mark.parametrize('thresholds', ['', ','])
def test_fault_13_empty_thresholds(thresholds, tmp_path, capsys):
  # The grid is chosen at the dump; a dump cannot exist without one.
  args = ['dump', f'--output_dir={tmp_path}/d', f'--thresholds={thresholds}']
  assert main.main(args) == 2
  assert 'thresholds must be numbers from 1' in capsys.readouterr().err
  with pytest.raises(errors.ConfigError, match='needs a row of thresholds'):
    threshold_selection.calibrate(np.zeros((9, 0)), [], 0.1, 0.05)


def test_fault_14_unsorted_or_duplicate_thresholds(capsys):
  assert dump.parse_thresholds('0.5,1,0.9,0.5') == (1.0, 0.9, 0.5)
  assert 'in this order: [1.0, 0.9, 0.5]' in capsys.readouterr().err
  assert dump.parse_thresholds('1,0.9,0.5') == (1.0, 0.9, 0.5)
  assert capsys.readouterr().err == ''
  # The order of the tests is the grid's, whatever the losses are.
  for losses in (np.zeros((50, 3)), np.eye(50, 3)[:, [1, 0, 2]]):
    losses[:, 1] = 0.0  # threshold 1
    outcome = threshold_selection.calibrate(losses, [0.5, 1.0, 0.9], 0.1, 0.05)
    assert outcome.thresholds.tolist() == [1.0, 0.9, 0.5]
    assert '[1.0, 0.9, 0.5]' in outcome.warning


def test_fault_15_empty_calibration_set(tmp_path, capsys):
  manifest, _ = dumps.make_dump()
  folder = tmp_path / 'dump'
  folder.mkdir()
  contracts.write_json_atomically(folder / 'manifest.json', manifest)
  args = ['calibrate', f'--dump_dir={folder}', f'--output={tmp_path}/c.json']
  assert main.main(args) == 3
  assert 'without any example' in capsys.readouterr().err
  with pytest.raises(errors.DataError, match='at least one example'):
    threshold_selection.calibrate(np.zeros((0, 1)), [0.5], 0.1, 0.05)


def test_fault_15_too_few_examples_to_ever_certify(run_calibrate):
  # log(0.05) / log(0.9) = 28.4
  code, out, _ = run_calibrate(dump=dumps.make_dump(28))
  assert code == 0 and '28 examples do not certify a tolerance of 0.1' in out
  assert 'use at least 29 examples' in out


def test_fault_16_losses_that_are_not_finite(run_calibrate):
  code, _, error = run_calibrate(
    '--metric=tests.cli.calibrate_faults_test:broken'
  )
  assert code == 3
  assert (
    'Scores of broken must be finite and in [0, 1], but 10 are not' in error
  )
  assert 'nan of example id-0 at grid column 1' in error


def test_fault_17_no_threshold_certified(run_calibrate, calibrated_result):
  code, out, _ = run_calibrate('--tolerance=0.02')
  assert code == 0 and calibrated_result().threshold == 1.0
  assert out.startswith('NO EARLY EXIT IS CERTIFIED: the full model is kept.')
  assert 'at 0.5 the mean loss on 200 examples is 0.0500' in out


@pytest.mark.parametrize(
  ('field', 'other'),
  [
    ('params_digest', 'other'),
    ('output_length', dumps.choice('ProportionalLength', ratio=1.0, extra=0)),
  ],
)
def test_fault_19_dump_of_another_model(
  run_calibrate, calibrated_result, field, other
):
  code, _, _ = run_calibrate('--tolerance=0.2')
  assert code == 0
  manifest, _ = dumps.make_dump(split='test', **{field: other})
  with pytest.raises(errors.DataError) as info:
    checks.check_same_system(manifest, calibrated_result())
  here = {'params_digest': 'm', 'output_length': None}[field]
  assert info.value.exit_code == 3
  for part in (field, repr(other), repr(here)):
    assert part in str(info.value)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_fault_20_confidences_that_are_not_finite(
  run_calibrate, tmp_path, value
):
  code, _, _ = run_calibrate('--tolerance=0.2')
  assert code == 0
  (tmp_path / 'calibration.json').unlink()

  def damage(arrays):
    arrays['trace_confidences'][3, 1, 2] = value

  rewrite_shard(tmp_path / 'dump', damage)
  code, _, error = run_calibrate()
  assert code == 5
  assert 'trace_confidences must be finite, but 1 are not' in error
  # Layer and position, counted from 0.
  assert 'example id-3 at TL = [1, 2] (from 0)' in error


def rewrite_shard(folder, change):
  """Changes arrays of the first shard, and the digest to go with it."""
  path = folder / 'shard-00000.npz'
  with np.load(path) as archive:
    arrays = dict(archive)
  change(arrays)
  np.savez_compressed(path, **arrays)
  _sign(folder, hashlib.sha256(path.read_bytes()).hexdigest())


def fields_of(folder):
  """The manifest's, without the digest that would give an edit away."""
  fields = json.loads((folder / 'manifest.json').read_text())
  del fields['record_sha256']
  return fields


def _sign(folder, digest):
  fields = fields_of(folder)
  fields['shards'][0]['sha256'] = digest
  (folder / 'manifest.json').write_text(json.dumps(fields))


def sign_anew(folder):
  content = (folder / 'shard-00000.npz').read_bytes()
  _sign(folder, hashlib.sha256(content).hexdigest())


@pytest.fixture
def folder(run_calibrate, tmp_path):
  """A dump of two shards, written and once calibrated."""
  code, _, _ = run_calibrate('--tolerance=0.2')
  assert code == 0
  (tmp_path / 'calibration.json').unlink()
  return tmp_path / 'dump'


@pytest.mark.parametrize('damage', ['truncated', 'bit flipped'])
def test_fault_21_damaged_shard(run_calibrate, folder, damage):
  path = folder / 'shard-00000.npz'
  content = bytearray(path.read_bytes())
  if damage == 'truncated':
    del content[-10:]
  else:
    content[len(content) // 2] ^= 1
  path.write_bytes(content)
  code, _, error = run_calibrate()
  assert code == 3
  assert f'shard-00000.npz ({len(content)} bytes) is truncated or' in error
  assert '`calm dump`' in error


def test_fault_22_pickled_objects(run_calibrate, folder):
  def damage(arrays):
    arrays['sources'] = np.array([{'a': 1}] * 100, dtype=object)

  rewrite_shard(folder, damage)
  code, _, error = run_calibrate()
  assert code == 3 and 'shard-00000.npz' in error
  assert 'allow_pickle=False' in error


def test_fault_23_names_that_leave_the_folder(run_calibrate, folder, tmp_path):
  with zipfile.ZipFile(folder / 'shard-00000.npz', 'a') as archive:
    archive.writestr('../../outside.npy', b'x')
  sign_anew(folder)
  before = sorted(tmp_path.rglob('*'))
  code, _, error = run_calibrate()
  assert code == 3 and '../../outside.npy' in error
  assert sorted(tmp_path.rglob('*')) == before


def test_fault_23_shards_outside_the_folder(run_calibrate, folder):
  fields = fields_of(folder)
  fields['shards'][0]['file'] = '../shard-00000.npz'
  (folder / 'manifest.json').write_text(json.dumps(fields))
  code, _, error = run_calibrate()
  assert code == 3 and "got '../shard-00000.npz'" in error


def test_fault_24_missing_shard(run_calibrate, folder):
  (folder / 'shard-00001.npz').unlink()
  code, _, error = run_calibrate()
  assert code == 3 and 'shard-00001.npz is missing' in error


def test_fault_24_duplicate_shard(run_calibrate, folder):
  fields = fields_of(folder)
  fields['shards'][1] = fields['shards'][0]
  (folder / 'manifest.json').write_text(json.dumps(fields))
  code, _, error = run_calibrate()
  assert code == 3 and 'a shard is listed twice' in error


def test_fault_24_overlapping_ids(run_calibrate, folder):
  def damage(arrays):
    arrays['example_ids'][5] = 'id-150'  # as the second shard has

  rewrite_shard(folder, damage)
  code, _, error = run_calibrate()
  assert code == 3 and "occur more than once: ['id-150']" in error


def test_fault_25_newer_schema(run_calibrate, folder):
  fields = fields_of(folder)
  fields |= {'schema_version': 99, 'a_new_field': 1}
  (folder / 'manifest.json').write_text(json.dumps(fields))
  code, _, error = run_calibrate()
  assert code == 3
  assert 'version 99, but this calm_jax reads version' in error
