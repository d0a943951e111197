"""What may change between two parts of a run."""

import pytest

from calm_jax import errors
from calm_jax.config import gin_setup, saved_config


def text_of(*macros, files=()):
  import gin

  gin_setup.parse(
    ['gin/experiments/tiny.gin', *files], ['MODEL_DIR = "runs"', *macros]
  )
  return gin.config_str()


def test_every_binding_is_found():
  found = saved_config.bindings(text_of())
  assert found['BATCH_SIZE'] == '8'
  assert found['batches.Batches.batch_size'] == '%BATCH_SIZE'
  # Too long for one line.
  factors = found['optimizers.create_learning_rate_scheduler.factors']
  assert factors == "'constant * linear_warmup * decay_every'"
  assert not [x for x in found if ' ' in x or '#' in x]


@pytest.mark.parametrize(
  'macro',
  ['TRAIN_STEPS = 99', 'EVAL_PERIOD = 2', 'MODEL_DIR = "moved"',
   'REMAT_POLICY = "full"', 'EARLY_STOPPING_PATIENCE = 3'],
)  # fmt: skip
def test_what_changes_no_step_may_change(macro):
  assert saved_config.differences(text_of(), text_of(macro)) == []


def test_evaluation_by_decoding_may_begin_later():
  later = text_of(files=['gin/runs/infer_eval.gin'])
  assert 'InferEvaluation' in later
  assert saved_config.differences(text_of(), later) == []


def test_what_changes_a_step_is_listed():
  later = text_of('LEARNING_RATE = 0.5', 'NUM_SAMPLED_LAYERS = None')
  assert saved_config.differences(text_of(), later) == [
    'LEARNING_RATE was 0.001 and is now 0.5',
    'NUM_SAMPLED_LAYERS was 1 and is now None',
  ]


def test_a_run_without_a_checkpoint_may_begin_otherwise(tmp_path):
  (tmp_path / 'config.gin').write_text('A = 1\nB = \\\n    [2,\n     3]\n')
  saved_config.check_continues(tmp_path, 'A = 2')
  (tmp_path / 'checkpoint_4').mkdir()
  saved_config.check_continues(tmp_path, 'A = 1\nB = [2, 3]\n')
  with pytest.raises(errors.ConfigError) as raised:
    saved_config.check_continues(tmp_path, 'A = 2\n')
  message = str(raised.value)
  assert 'A was 1 and is now 2' in message
  assert 'B was [2, 3] and is now not set' in message
