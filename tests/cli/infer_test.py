"""`calm infer`: its flags and gin file, against `calm generate`."""

import dataclasses
import json
import re

import pytest
from testing import dumps, tiny_text

from calm_jax.cli import loading, main
from calm_jax.decode import description, generation
from calm_jax.records import contracts

pytestmark = pytest.mark.usefixtures('short_corpus')

TASK = 'docstring_restoration'
FILE = f'{TASK}-predict_with_aux.jsonl-00000-of-00001'


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator()


@pytest.fixture
def loaded(generator, monkeypatch):
  found = loading.LoadedModel(generator, 'weights')
  monkeypatch.setattr(loading, 'load', lambda chosen: found)
  return found


@pytest.fixture
def infer(tmp_path, loaded):
  def call(*flags, name='out'):
    folder = tmp_path / name
    code = main.main(
      ['infer', f'--output_dir={folder}', '--batch_size=1', *flags]
    )
    return code, folder

  return call


def lines_of(path):
  return [json.loads(line) for line in path.read_text('utf-8').split('\n')[:-1]]


def test_equals_calm_generate_with_the_gin_file(infer, capsys):
  code, folder = infer(
    '--gin_file=gin/runs/infer.gin',
    '--gin.MIXTURE_OR_TASK_SPLIT="validation"',
    '--gin.THRESHOLD=0.002',
    '--max_examples=3',
  )
  assert code == 0
  printed = capsys.readouterr().out
  assert f'Written: 3 examples to {folder / FILE}; ' in printed
  lines = lines_of(folder / FILE)
  assert [x['inputs']['targets_pretokenized'] for x in lines] == [
    f'It returns {i} values, and validation.' for i in range(3)
  ]
  texts = [x['inputs']['inputs_pretokenized'] for x in lines]
  assert texts[0] == 'restore: it returns 0 values and validation'
  plain = [text.removeprefix('restore: ') for text in texts]
  flags = ['--threshold=0.002', '--format=text', *plain]
  assert main.main(['generate', *flags]) == 0
  assert capsys.readouterr().out.split('\n')[:-1] == [
    x['prediction'] for x in lines
  ]
  flags[1] = '--format=layers'
  assert main.main(['generate', *flags]) == 0
  printed = capsys.readouterr().out.split('\n')[:-1]
  for shown, line in zip(printed, lines, strict=True):
    used = [int(x) for x in re.findall(r'/(\d)(?: |$)', shown)]
    assert used == line['aux']['exits']


def test_shares_are_the_whole(infer):
  flags = ('--max_examples=5', '--mode=predict')
  whole = f'{TASK}-predict.jsonl-00000-of-00001'
  _, folder = infer(*flags)
  expected = (folder / whole).read_bytes().splitlines()
  for share in range(2):
    code, _ = infer(*flags, '--num_shards=2', f'--shard_id={share}')
    assert code == 0
    name = f'{TASK}-predict.jsonl-0000{share}-of-00002'
    assert (folder / name).read_bytes().splitlines() == expected[share::2]


def calibration(generator, digest):
  return contracts.CalibrationResult(
    threshold=0.002,
    tolerance=0.1,
    failure_prob=0.05,
    consistency='textual',
    metric='chrf',
    p_value=dumps.choice('HoeffdingBentkus'),
    procedure=dumps.choice('FixedSequence'),
    num_examples=100,
    reason='',
    grid=(),
    dump=dumps.make_manifest(
      model=description.describe(generator, digest)
    ).provenance,
  )


def test_the_calibrated_threshold_is_of_the_same_model(
  infer, generator, tmp_path, capsys
):
  path = tmp_path / 'calibration.json'
  contracts.write_json_atomically(path, calibration(generator, 'weights'))
  flags = (f'--calibration={path}', '--max_examples=2')
  code, folder = infer(*flags)
  assert code == 0
  assert infer('--threshold=0.002', flags[1], name='given')[0] == 0
  given = folder.with_name('given') / FILE
  assert (folder / FILE).read_bytes() == given.read_bytes()
  contracts.write_json_atomically(path, calibration(generator, 'others'))
  assert infer(*flags)[0] == 3
  assert 'must be of this model' in capsys.readouterr().err
  record = calibration(generator, 'weights')
  other = dumps.replaced(record.dump, measure=dumps.choice('Patience'))
  record = dataclasses.replace(record, dump=other)
  contracts.write_json_atomically(path, record)
  assert infer(*flags)[0] == 3
  said = 'its measure is Patience(), and here it is SoftmaxTopTwoGap()'
  assert said in capsys.readouterr().err


def test_without_a_threshold_the_full_model_is_run(infer):
  _, folder = infer('--max_examples=1')
  (line,) = lines_of(folder / FILE)
  assert set(line['aux']['exits']) == {3}


def test_other_settings_are_refused_with_both_values(infer, capsys):
  assert infer('--max_examples=1')[0] == 0
  capsys.readouterr()
  code, folder = infer('--max_examples=1')
  said = f'Complete already: 1 examples in {folder / FILE}; 3.00 of 3 '
  assert code == 0 and capsys.readouterr().out.startswith(said)
  assert infer('--max_examples=1', '--threshold=0.5')[0] == 3
  message = capsys.readouterr().err
  assert 'threshold was 1.0 and is now 0.5' in message
  assert '--overwrite replaces' in message
  flags = ('--max_examples=1', '--threshold=0.002', '--overwrite')
  assert infer(*flags)[0] == 0


def test_beams_have_no_confidence(infer, generator, monkeypatch):
  def answer(request, batch_size):
    assert request.has_beams and batch_size == 3
    beams = (
      generation.Generation(
        text=f'beam {i}',
        pieces=('a',),
        tokens=(5,),
        num_layers_used=(3,),
        confidences=(float('nan'),),
        log_prob=-float(i),
      )
      for i in range(request.rows_per_source)
    )
    return [list(beams) for _ in range(request.num_sources)]

  monkeypatch.setattr(generator, 'answer', answer)
  code, folder = infer('--max_examples=1', '--beam_size=3', '--num_decodes=2')
  assert code == 0
  (line,) = lines_of(folder / FILE)
  assert line['prediction'] == ['beam 1', 'beam 0']
  assert line['aux'] == {
    'scores': [-1.0, 0.0],
    'exits': [[3], [3]],
    'confidences': [[None], [None]],
    'not_finite': ['confidences'],
  }


@pytest.mark.parametrize(
  ('flags', 'code', 'said'),
  [
    (['--mode=predikt'], 2, "Did you mean 'predict'"),
    (['--threshold=1.5'], 2, 'must be in [0, 1]'),
    (['--batch_size=0'], 2, 'batch_size must be at least 1'),
    (['--task=docstring_restoratio'], 2, 'Did you mean'),
    (['--split=test', '--input_file=a.txt'], 2, 'has no splits'),
    (['--input_file=missing.txt'], 3, 'missing.txt'),
    (['--beam_size=2', '--threshold=0.5'], 2, 'full model alone'),
    (['--mode=score', '--input_file=a.txt'], 2, 'no targets to score'),
    (['--mode=score', '--threshold=0.5'], 2, 'of the full model'),
    (['--mode=score', '--temperature=1'], 2, 'of the full model'),
    (['--gin.INFER_MOD="predict"'], 2, 'did you mean INFER_MODE'),
  ],
)
def test_faults_are_found_before_the_model_is_loaded(
  flags, code, said, tmp_path, monkeypatch, capsys
):
  def load(chosen):
    raise AssertionError('the model was loaded before the flags were checked')

  monkeypatch.setattr(loading, 'load', load)
  args = ['infer', f'--output_dir={tmp_path / "out"}', *flags]
  assert main.main(args) == code
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_the_folder_must_be_given(capsys):
  assert main.main(['infer', '--gin_file=gin/runs/infer.gin']) == 2
  assert 'Missing --output_dir' in capsys.readouterr().err
