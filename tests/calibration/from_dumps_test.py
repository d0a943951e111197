"""Several dumps, tolerances or groups: results, reasons, files, refusals."""

import dataclasses
import json

import numpy as np
import pytest
from testing import dumps

from calm_jax import calibration, errors
from calm_jax.cli import main
from calm_jax.records import contracts

N = 240


def a_worse_dump():
  """Of the same texts in another order; it loses more at 0.5."""
  manifest, data = dumps.make_dump(N)
  data = dumps.rows(data, np.arange(N)[::-1])
  texts = data.predictions.copy()
  texts[::4, 1] = 'qqq'
  return manifest, dataclasses.replace(data, predictions=texts)


def test_the_dump_with_the_fewest_certified_layers_is_chosen():
  good, worse = dumps.make_dump(N), a_worse_dump()
  result = calibration.choose_dump([worse, good], 'textual', 0.2, 0.05)
  assert result.threshold == 0.5
  assert [x.certified for x in result.grid] == [True, True, False]
  assert result.grid[1].mean_loss == pytest.approx(0.05)
  assert result.num_examples == 180
  assert result.procedure.kind == 'ParetoTesting'
  assert 'among 4 thresholds of 2 dumps' in result.reason
  assert 'part of the promise' in result.reason
  nothing = calibration.choose_dump([worse, good], 'textual', 0.01, 0.05)
  assert nothing.threshold == 1.0 and 'full model is kept' in nothing.reason


def test_dumps_of_other_texts_are_refused():
  manifest, data = dumps.make_dump(N)
  ids = np.array([f'other-{i}' for i in range(N)])
  other = manifest, dataclasses.replace(data, example_ids=ids)
  with pytest.raises(errors.DataError, match='same texts'):
    calibration.choose_dump([(manifest, data), other], 'textual', 0.2, 0.05)


def test_a_curve_is_calibrated_at_a_share_of_the_failure_probability():
  dump = dumps.make_dump(N)
  curve = calibration.calibrate_dump_curve(
    dump, 'textual', (0.02, 0.2), 0.05, p_value='betting'
  )
  alone = calibration.calibrate_dump(
    dump, 'textual', 0.2, 0.025, p_value='betting'
  )
  assert list(curve) == ['0.02', '0.2']
  assert curve['0.2'].grid == alone.grid and alone.threshold == 0.5
  assert curve['0.2'].failure_prob == 0.025
  assert curve['0.2'].reason.endswith(
    'one of 2 tolerances, which share a failure probability of 0.05.'
  )


def test_groups_are_calibrated_on_their_own_texts():
  manifest, data = dumps.make_dump(N)
  lost = set(data.example_ids[::20].tolist())
  group_of = {x: 'hard' if x in lost else 'easy' for x in data.example_ids}
  found = calibration.calibrate_dump_groups(
    (manifest, data), group_of, 'textual', 0.1, 0.05
  )
  assert {k: v.threshold for k, v in found.items()} == {
    'easy': 0.5,
    'hard': 1.0,
  }
  assert (found['easy'].num_examples, found['hard'].num_examples) == (228, 12)
  assert "the group 'hard', one of 2" in found['hard'].reason
  del group_of[data.example_ids[3]]
  with pytest.raises(errors.DataError, match="1 of 240 have none, as .'id-3'"):
    calibration.calibrate_dump_groups(
      (manifest, data), group_of, 'textual', 0.1, 0.05
    )


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for name, (manifest, data) in (
    ('a', dumps.make_dump(N)),
    ('b', a_worse_dump()),
  ):
    dumps.write_dump(tmp_path / name, manifest, [data])
  groups = {f'id-{i}': 'even/2' if i % 2 == 0 else 'odd' for i in range(N)}
  (tmp_path / 'groups.json').write_text(json.dumps(groups))
  start = ['calibrate', '--dump_dir=a', '--output=c.json', '--tolerance=0.2']

  def files(*flags):
    assert main.main([*start, *flags]) == 0, capsys.readouterr().err
    found = {x.name for x in tmp_path.glob('c*.json')}
    for name in found:
      contracts.read_json(name, contracts.CalibrationResult)
      (tmp_path / name).unlink()
    return found

  assert files('--dump_dir=b') == {'c.json'}
  assert files('--tolerances=0.1,0.2') == {'c.0.1.json', 'c.0.2.json'}
  assert files('--groups=groups.json') == {'c.even_2.json', 'c.odd.json'}
  assert files('--consistency=textual>0.5') == {'c.json'}
  assert 'textual>0.5 consistency' in capsys.readouterr().out
  for flags, message in (
    (('--dump_dir=b', '--tolerances=0.1,0.2'), 'not by more than one'),
    (('--dump_dir=b', '--procedure=holm'), 'leave out --procedure'),
    (('--tolerances=few',), 'numbers joined by commas'),
  ):
    assert main.main([*start, *flags]) == 2
    assert message in capsys.readouterr().err
