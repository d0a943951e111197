"""Records survive JSON unchanged, and damaged JSON is one clear sentence."""

import dataclasses
import json
import math
import os

import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.records import contracts

ROW = contracts.SystemRow(
  threshold=0.8,
  mean_loss=0.05,
  loss_upper_95=0.09,
  mean_metric=0.93,
  mean_layers=2.5,
  ms_per_token=3.25,
  tokens_timed=1000,
)
RESULT = contracts.EvaluationResult(
  task='docstring_restoration',
  split='test',
  metric='chrf',
  tolerance=0.1,
  failure_prob=0.05,
  consistency='textual',
  num_examples=10,
  baselines={'input_copied': 0.7},
  full=dataclasses.replace(ROW, threshold=1.0, mean_loss=0.0),
  calibrated=ROW,
  speedup=1.7,
  batch_size=1,
  machine='two cores',
  curve=(contracts.CurvePoint(1.0, 0.0, 0.93, 8.0),),
  samples=(
    # A lone surrogate and a NUL, as a byte-fallback model may emit.
    contracts.Sample('id', 'é', '\ud800', ('a\0', '</s>'), (1, 8), 'x'),
  ),
  layer_histogram=(3, 0, 1),
)
CALIBRATION = contracts.CalibrationResult(
  threshold=0.8,
  tolerance=0.1,
  failure_prob=0.05,
  consistency='risk',
  metric='chrf',
  p_value=dumps.choice('HoeffdingBentkus'),
  procedure=dumps.choice('FixedSequence'),
  num_examples=10,
  reason='because',
  grid=(contracts.GridPoint(0.8, 0.1 + 0.2, 1e-300, True, 2.5, 1 / 3),),
  dump=dumps.make_manifest().provenance,
)


@pytest.mark.parametrize('record', [RESULT, CALIBRATION])
def test_round_trip_is_exact(tmp_path, record):
  path = tmp_path / 'new' / 'record.json'
  contracts.write_json_atomically(path, record)
  assert contracts.read_json(path, type(record)) == record
  assert os.listdir(path.parent) == ['record.json']


def write_changed(path, **fields):
  path.write_text(json.dumps(CALIBRATION.to_json() | fields))


DUMP = CALIBRATION.dump.to_json()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'schema_version': 99}, 'schema version 99.*reads version 2'),
    ({'schema_version': True}, 'schema version True'),
    ({'extra': 1}, r"unknown fields \['extra'\]"),
    ({'tolerance': '0.1'}, "tolerance must be float, got str '0.1'"),
    ({'tolerance': 1.5}, r'must be in \(0, 1\)'),
    ({'tolerance': True}, 'tolerance must be float, got bool'),
    ({'num_examples': 2.5}, 'num_examples must be int'),
    ({'num_examples': 0}, 'num_examples must be positive'),
    ({'threshold': -1}, r'threshold must be in \[0, 1\]'),
    ({'consistency': 'both'}, 'consistency must be one of'),
    ({'grid': {}}, 'grid must be tuple, got dict'),
    ({'grid': [{'threshold': 1}]}, r'grid\[0\] does not fit GridPoint'),
    ({'dump': DUMP | {'task': 1}}, 'dump: task must be str'),
    ({'dump': {'task': 't'}}, r"missing fields \['split'"),
  ],
)
def test_fields_that_do_not_fit(tmp_path, fields, message):
  path = tmp_path / 'calibration.json'
  write_changed(path, **fields)
  with pytest.raises(errors.DataError, match=message) as info:
    contracts.read_json(path, contracts.CalibrationResult)
  assert str(path) in str(info.value)


def test_a_missing_field_and_a_wrong_kind_of_file(tmp_path):
  path = tmp_path / 'calibration.json'
  fields = CALIBRATION.to_json()
  del fields['reason']
  path.write_text(json.dumps(fields))
  with pytest.raises(errors.DataError, match=r"missing fields \['reason'\]"):
    contracts.read_json(path, contracts.CalibrationResult)
  with pytest.raises(errors.DataError, match='does not fit EvaluationResult'):
    contracts.read_json(path, contracts.EvaluationResult)


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{"a": 1',
    'not json',
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": 1, "a": 2}',
    '[' * 100_000,
  ],
  ids=lambda text: text[:12],
)
def test_text_that_is_no_strict_json(tmp_path, text):
  path = tmp_path / 'file.json'
  path.write_text(text)
  with pytest.raises(errors.DataError, match='not valid JSON.*truncated'):
    contracts.read_json(path)


def test_every_truncation_is_refused(tmp_path):
  path = tmp_path / 'file.json'
  contracts.write_json_atomically(path, CALIBRATION)
  content = path.read_bytes().rstrip()
  for length in range(0, len(content), 7):
    path.write_bytes(content[:length])
    with pytest.raises(errors.DataError):
      contracts.read_json(path, contracts.CalibrationResult)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(errors.DataError, match='does not exist'):
    contracts.read_json(tmp_path / 'nothing.json')
  with pytest.raises(errors.DataError, match='not a file'):
    contracts.read_json(tmp_path)
  (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(errors.DataError, match='not UTF-8'):
    contracts.read_json(tmp_path / 'binary')
  (tmp_path / 'list.json').write_text('[1]')
  with pytest.raises(errors.DataError, match='must be a JSON object'):
    contracts.read_json(tmp_path / 'list.json', contracts.Manifest)
  write_changed(tmp_path / 'huge.json', tolerance='HUGE')
  text = (tmp_path / 'huge.json').read_text().replace('"HUGE"', '1e999')
  (tmp_path / 'huge.json').write_text(text)
  with pytest.raises(errors.DataError, match='tolerance must be float'):
    contracts.read_json(tmp_path / 'huge.json', contracts.CalibrationResult)


def test_nan_is_never_written_and_the_old_file_stays(tmp_path):
  path = tmp_path / 'file.json'
  contracts.write_json_atomically(path, {'a': 1})
  with pytest.raises(errors.NumericError, match=r'at \.b\[1\]\.c'):
    contracts.write_json_atomically(path, {'b': [0, {'c': math.nan}]})
  assert contracts.read_json(path) == {'a': 1}
  assert os.listdir(tmp_path) == ['file.json']


def test_records_refuse_nan():
  with pytest.raises(errors.DataError, match='mean_loss must be in'):
    dataclasses.replace(ROW, mean_loss=math.nan)
  with pytest.raises(errors.DataError, match=r'threshold must be in \[0, 1\]'):
    dataclasses.replace(CALIBRATION, threshold=math.nan)


def test_texts_that_end_have_means():
  ended = {'exact_match': 0.0, 'endless': 0.5}
  contracts.Outputs(**ended, num_ended=0)
  with pytest.raises(errors.DataError, match='3 texts that end must have'):
    contracts.Outputs(**ended, num_ended=3, mean_metric_ended=0.5)


def test_fault_52_a_disk_that_refuses(tmp_path, monkeypatch):
  path = tmp_path / 'file.json'
  contracts.write_json_atomically(path, {'a': 1})

  def no_space(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', no_space)
  with pytest.raises(errors.ResourceError, match='No space left on device'):
    contracts.write_json_atomically(path, {'a': 2})
  assert contracts.read_json(path) == {'a': 1}
  assert os.listdir(tmp_path) == ['file.json']


def test_a_file_in_place_of_a_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ResourceError, match='Cannot write .*file.json: '):
    contracts.write_json_atomically(tmp_path / 'file' / 'file.json', {'a': 1})


def test_a_file_from_before_a_field_was_added_is_read(tmp_path):
  """Fields with a default may be missing; the schema version may not."""
  path = tmp_path / 'evaluation.json'
  fields = RESULT.to_json()
  for name in ('flops_reduction', 'example_losses', 'command', 'curve'):
    del fields[name]
  for name in ('outputs', 'flops', 'speed'):
    del fields['full'][name]
  path.write_text(json.dumps(fields))
  assert contracts.read_json(path, contracts.EvaluationResult) == (
    dataclasses.replace(RESULT, curve=())
  )
  del fields['schema_version']
  path.write_text(json.dumps(fields))
  with pytest.raises(errors.DataError, match='schema version None'):
    contracts.read_json(path, contracts.EvaluationResult)
