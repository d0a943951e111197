"""`calm dump`: resuming, sharding and stopping, as flags."""

import argparse
import dataclasses

import numpy as np
import pytest
from testing import dumps, tiny_text

from calm_jax import calibration
from calm_jax.cli import dump, loading, main
from calm_jax.dump import runner

GRID = (1.0, 0.9, 0.8, 0.7, 0.6)
# Texts that differ from the full model's, of 100, by threshold.
WRONG = (0, 1, 2, 30, 2)


def make_dump(size=100):
  manifest, data = dumps.make_dump(size, thresholds=GRID, metric='exact_match')
  more = {
    name: np.repeat(array[:, -1:], len(GRID) - data.num_thresholds, axis=1)
    for name, array in data.arrays().items()
    if name in ('tokens', 'num_layers_used', 'confidences', 'predictions')
  }
  texts = [
    ['other' if i < wrong else 'Same text.' for wrong in WRONG]
    for i in range(size)
  ]
  return manifest, dataclasses.replace(
    data.with_thresholds(more), predictions=np.array(texts)
  )


def chosen(**fields):
  return argparse.Namespace(
    **{
      'stop_tolerance': 0.15,
      'stop_failure_prob': 0.05,
      'stop_consistency': 'textual',
      'stop_thresholds_per_pass': 2,
    }
    | fields
  )


def test_stopping_asks_fixed_sequence_testing():
  manifest, data = make_dump()
  rule = dump.stopping(chosen())
  reasons = {}
  for count in range(2, len(GRID) + 1):
    so_far = dataclasses.replace(manifest, thresholds=GRID[:count])
    reasons[count] = rule.reason(so_far, data.first_thresholds(count))
  assert reasons[2] == reasons[3] == ''
  assert '0.7' in reasons[4] and reasons[5]
  # What was left out would not have changed the choice.
  results = [
    calibration.calibrate_dump(
      (
        dataclasses.replace(manifest, thresholds=GRID[:count]),
        data.first_thresholds(count),
      ),
      'textual',
      0.15,
      0.05,
    )
    for count in (4, 5)
  ]
  assert results[0].threshold == results[1].threshold == 0.8


def test_without_a_tolerance_nothing_is_left_out():
  assert dump.stopping(chosen(stop_tolerance=None)) is None


def test_other_numbers_are_another_rule():
  names = {
    dump.stopping(chosen(**fields)).name
    for fields in (
      {},
      {'stop_tolerance': 0.2},
      {'stop_failure_prob': 0.1},
      {'stop_consistency': 'risk'},
    )
  }
  assert len(names) == 4


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--stop_tolerance=0'], 'tolerance'),
    (['--stop_tolerance=nan'], 'tolerance'),
    (['--stop_tolerance=0.1', '--stop_failure_prob=1'], 'failure_prob'),
    (['--stop_tolerance=0.1', '--stop_consistency=text'], "'textual'"),
    (['--stop_thresholds_per_pass=0'], 'must be at least 1'),
    (['--examples_per_shard=0'], 'must be at least 1'),
  ],
)
def test_refuses_before_a_model_is_loaded(
  flags, message, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(loading, 'load', None)
  assert main.main(['dump', f'--output_dir={tmp_path}/d', *flags]) == 2
  assert message in capsys.readouterr().err


def test_flags_reach_the_runner(short_corpus, tmp_path, monkeypatch, capsys):
  asked = {}

  def run(generator, examples, header, directory, **kwargs):
    asked.update(kwargs, examples=len(examples))
    manifest = dataclasses.replace(
      header, thresholds=header.thresholds[:2], stopped='It was enough.'
    )
    return runner.Outcome(manifest, is_new=True)

  monkeypatch.setattr(runner, 'run', run)
  monkeypatch.setattr(runner, 'header', lambda _, **kwargs: make_dump()[0])
  monkeypatch.setattr(
    loading, 'load', lambda chosen: loading.LoadedModel(None, 'weights')
  )
  args = ['--max_examples=7', '--examples_per_shard=3', '--restart']
  code = main.main(
    ['dump', f'--output_dir={tmp_path}/d', *args, '--stop_tolerance=0.2']
  )
  printed = capsys.readouterr().out
  assert code == 0 and 'Stopped at 0.9: It was enough.' in printed
  rule = asked.pop('stopping')
  assert asked == {
    'overwrite': False,
    'restart': True,
    'examples_per_shard': 3,
    'examples': 7,
  }
  assert rule.per_pass == 4 and '0.2' in rule.name


def test_a_complete_dump_is_left_as_it_is(
  short_corpus, tmp_path, monkeypatch, capsys
):
  """Also where another split's is missing, or its settings are others."""
  generator = tiny_text.make_generator()
  monkeypatch.setattr(
    loading, 'load', lambda chosen: loading.LoadedModel(generator, 'weights')
  )

  def run(split, *flags):
    output = tmp_path / 'calibration' if split == 'calibration' else tmp_path
    args = [f'--split={split}', f'--output_dir={output}', '--max_examples=2']
    code = main.main(['dump', *args, '--thresholds=1,0', *flags])
    printed = capsys.readouterr()
    return code, printed.out, printed.err.splitlines()[-1:]

  written = f'Written: 2 examples to {tmp_path}/calibration\n'
  complete = f'Complete already: 2 examples in {tmp_path}/calibration'
  complete += ' (--overwrite makes it again)\n'
  assert run('calibration')[:2] == (0, written)
  assert run('calibration') == (0, complete, [])
  assert run('calibration,test')[:2] == (
    0,
    f'{complete}Written: 2 examples to {tmp_path}/test\n',
  )
  code, _, (message,) = run('calibration', '--examples_per_shard=1')
  assert code == 3
  assert 'examples_per_shard was 64 and is now 1' in message
  assert '--overwrite replaces' in message and '--restart' not in message
  code, _, (message,) = run('calibration', '--max_examples=3')
  assert code == 3 and 'num_examples was 2 and is now 3' in message
  shard = tmp_path / 'calibration' / 'shard-00000.npz'
  shard.write_bytes(shard.read_bytes()[:-1])
  code, _, (message,) = run('calibration')
  assert code == 3 and 'run `calm dump` with --overwrite.' in message
  assert run('calibration', '--overwrite')[:2] == (0, written)
