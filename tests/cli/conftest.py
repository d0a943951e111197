"""Data of the stages: a made-up corpus, a made-up dump."""

import pytest
from testing import dumps

from calm_jax.cli import main
from calm_jax.data import corpus
from calm_jax.records import contracts


@pytest.fixture(scope='module')
def short_corpus():
  """Sixty made-up sentences per split instead of the real corpus."""

  def load_corpus(task, split, source=None):
    assert source is None, 'no other packages are asked for'
    return [
      corpus.Example(
        f'{split}-{i:03}',
        f'restore: it returns {i} values and {split}',
        f'It returns {i} values, and {split}.',
      )
      for i in range(60)
    ]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(corpus, 'load_corpus', load_corpus)
    patch.setattr(corpus, 'ensure_corpus', lambda: None)
    patch.setattr(corpus, 'read_manifest', lambda _: {'digest': 'made up'})
    yield


@pytest.fixture
def run_calibrate(tmp_path, capsys):
  """Runs the command on a dump; returns exit code, stdout and stderr."""

  def call(*flags, dump=None):
    folder = tmp_path / 'dump'
    if not folder.exists():
      manifest, data = dump or dumps.make_dump(200)
      half = len(data.example_ids) // 2
      parts = [
        dumps.rows(data, slice(half)),
        dumps.rows(data, slice(half, None)),
      ]
      dumps.write_dump(folder, manifest, parts)
    output = tmp_path / 'calibration.json'
    code = main.main(
      ['calibrate', f'--dump_dir={folder}', f'--output={output}', *flags]
    )
    captured = capsys.readouterr()
    if code:
      assert not output.exists()
      assert captured.err.count('\n') == 1 and captured.out == ''
    return code, captured.out, captured.err

  return call


@pytest.fixture
def calibrated_result(tmp_path):
  return lambda: contracts.read_json(
    tmp_path / 'calibration.json', contracts.CalibrationResult
  )
