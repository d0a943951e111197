"""The gin files of the stages after training, and what gin says in them."""

import importlib

import pytest

from calm_jax.cli import loading, main, settings
from calm_jax.config import gin_checks, gin_setup

WITH_RUN_FILE = ('dump', 'calibrate', 'evaluate', 'infer', 'report')


def settings_of(stage):
  return importlib.import_module(f'calm_jax.cli.{stage}').SETTINGS


def failure(capsys, *args):
  """(exit code, message) of a command that must print one line on stderr."""
  code = main.main(args)
  captured = capsys.readouterr()
  assert captured.err.count('\n') == 1 and captured.err.endswith('\n')
  return code, captured.err


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
  monkeypatch.setattr(loading, 'load', None)  # Nothing is compiled before.


@pytest.mark.parametrize('stage', WITH_RUN_FILE)
def test_the_run_file_of_a_stage_says_what_its_flags_say(stage):
  gin_setup.parse([f'gin/runs/{stage}.gin'], [])
  in_file = gin_checks.macro_values()
  for setting in settings_of(stage):
    # The task is that of the experiment.
    if setting.macro not in in_file:
      assert stage == 'infer' or setting.macro == 'MIXTURE_OR_TASK_NAME'
    elif setting.default is settings.REQUIRED:
      assert gin_checks.is_required(in_file[setting.macro])
    else:
      assert gin_setup.macro(setting.macro) == setting.default


@pytest.mark.parametrize('stage', WITH_RUN_FILE)
def test_what_a_run_file_requires_is_missed_before_anything_else(stage, capsys):
  code, message = failure(capsys, stage, f'--gin_file=gin/runs/{stage}.gin')
  required = [
    f'--{x.name}' for x in settings_of(stage) if x.default is settings.REQUIRED
  ]
  assert code == 2 and f'Missing {", ".join(required)}.' in message


@pytest.mark.parametrize('stage', WITH_RUN_FILE)
@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('{typo}="x"', 'The macro {typo} is never used; did you mean {macro}?'),
    ('{macro}=runs/x', """write --gin.{macro}='"runs/x"'."""),
    ('{macro}=3', '{macro} must be of type str, got 3.'),
    ('{macro}=@nothing()', 'Nothing is called nothing.'),
    ('{macro}=%NOWHERE', '%NOWHERE is used but defined nowhere.'),
  ],
  ids=['mistyped', 'unquoted', 'type', 'reference', 'macro'],
)
def test_gin_helps_in_every_stage(stage, binding, said, capsys):
  macro = next(
    x.macro for x in settings_of(stage) if x.default is settings.REQUIRED
  )
  names = {'macro': macro, 'typo': macro[:-2] + macro[-1]}
  code, message = failure(
    capsys,
    stage,
    f'--gin_file=gin/runs/{stage}.gin',
    f'--gin.{binding.format(**names)}',
  )
  assert code == 2 and said.format(**names) in message


@pytest.mark.parametrize(
  ('stage', 'flag', 'said'),
  [
    ('dump', '--gin.SPLIT="tests"', 'must be one of train'),
    ('dump', '--gin.SPLIT="calibration,tests"', 'must be one of train'),
    (
      'dump',
      '--gin.MIXTURE_OR_TASK_NAME="docstrings"',
      'docstring_restoration',
    ),
    ('dump', '--gin.THRESHOLDS=(0.5, 0.9)', 'down to at least 0'),
    ('dump', '--gin.STOP_TOLERANCE="0.1"', 'must be of type float'),
    (
      'dump',
      '--gin.TASK_FEATURE_LENGTH={"inputs": 1}',
      'TASK_FEATURE_LENGTHS?',
    ),
    ('infer', '--gin.SPLIT="tests"', 'must be one of train'),
    ('infer', '--gin.INFER_MODE="predict_aux"', 'predict_with_aux'),
  ],
)
def test_unknown_values_are_told_before_the_model_loads(
  stage, flag, said, capsys, tmp_path
):
  code, message = failure(capsys, stage, f'--output_dir={tmp_path}/out', flag)
  assert code == 2 and said in message


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--gin.CONSISTENCY="text"', "Did you mean 'textual'?"),
    ('--gin.METRIC="rouge_L"', "Did you mean 'rouge_l'?"),
    ('--gin.PROCEDURE="holms"', "Did you mean 'holm'?"),
    ('--gin.P_VALUE=3', 'must be of type str'),
  ],
)
def test_calibrate_tells_unknown_values(flag, said, run_calibrate):
  code, _, message = run_calibrate(flag)
  assert code == 2 and said in message
