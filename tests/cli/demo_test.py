"""`calm demo` from a model folder to the report."""

import pathlib

import pytest
from testing import tiny_text

from calm_jax.checkpoints import bundle
from calm_jax.cli import main, native_logs
from calm_jax.dump import reader
from calm_jax.records import contracts


@pytest.fixture
def model(tmp_path):
  generator = tiny_text.make_generator(max_decode_length=6)
  bundle.save_bundle(
    tmp_path / 'model',
    generator.params,
    generator.model.config,
    bundle.BundleInfo('docstring_restoration', {'inputs': 12, 'targets': 6}),
    generator.tokenizer.path,
  )
  return tmp_path / 'model'


@pytest.mark.usefixtures('short_corpus')
def test_demo(model, tmp_path, monkeypatch, capsys):
  # Nothing of it needs TensorFlow, which takes seconds to import.
  monkeypatch.setattr(native_logs, 'import_tensorflow', None)
  folder = tmp_path / 'demo'
  code = main.main(
    [
      'demo',
      f'--model={model}',
      f'--output_dir={folder}',
      '--calibration_examples=10',
      '--test_examples=6',
      '--timed_examples=3',
    ]
  )
  printed = capsys.readouterr()
  assert code == 0, printed.err
  for number in range(1, 6):
    assert f'[{number}/5, ' in printed.out
  for row in ('Mean layers per token', 'Baseline: input copied', 'Speedup'):
    assert row in printed.out

  calibrated = contracts.read_json(
    folder / 'calibration.json', contracts.CalibrationResult
  )
  result = contracts.read_json(
    folder / 'evaluation.json', contracts.EvaluationResult
  )
  assert (calibrated.num_examples, result.num_examples) == (10, 6)
  # Ten texts certify nothing: the full model against itself.
  assert calibrated.threshold == result.calibrated.threshold == 1.0
  assert calibrated.warning in printed.out
  # And it is told before anything is decoded.
  assert printed.out.startswith(f'Warning: {calibrated.warning}\n[1/5, ')
  assert result.full.mean_layers == result.calibrated.mean_layers == 3.0
  assert result.calibrated.mean_loss == 0.0
  assert 3 <= result.full.tokens_timed <= 3 * 6
  _, data = reader.read_dump(folder / 'calibration_dump')
  assert all(x.startswith('calibration-') for x in data.example_ids)
  page = printed.out.rpartition('Report: ')[2].strip()
  assert page.startswith(str(folder / 'report'))
  text = pathlib.Path(page).read_text(encoding='utf-8')
  assert 'docstring_restoration' in text
