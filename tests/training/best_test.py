"""The best evaluation, patience, and what a resumed run remembers."""

import json
import math

import pytest

from calm_jax import errors
from calm_jax.training import best

NAME = 'training_eval/accuracy'


def history(path, last_step=0, **options):
  return best.History(best.BestCheckpoint(NAME, **options), path, last_step)


def add_all(found, values, first=1):
  return [
    found.add(i, {NAME: x, 'x': 0.0}) for i, x in enumerate(values, first)
  ]


@pytest.mark.parametrize(
  'mode, values, news, step',
  [
    ('max', [1, 3, 2, 3, 4], [True, True, False, False, True], 5),
    ('max', [3, 3, 2], [True, False, False], 1),
    ('min', [3, 1, 2], [True, True, False], 2),
    ('min', [math.nan, 5, -math.inf, 4], [False, True, False, True], 4),
  ],
)
def test_the_best_is_the_first_of_the_best(mode, values, news, step, tmp_path):
  found = history(tmp_path, metric_mode=mode)
  assert add_all(found, values) == news
  assert found.best.step == step
  written = json.loads((tmp_path / best.FILE_NAME).read_text())
  assert written['best_step'] == step
  assert [x['step'] for x in written['evaluations']] == [
    *range(1, len(values) + 1)
  ]


def test_patience_counts_evaluations_since_the_best(tmp_path):
  found = history(tmp_path, patience=2)
  over = []
  for step, value in enumerate([1, 2, 1, 3, 3, math.nan], 1):
    found.add(step, {NAME: value})
    over.append(found.is_over)
  assert over == [False] * 5 + [True]


def test_patience_runs_out_where_nothing_is_finite(tmp_path):
  found = history(tmp_path, patience=2)
  assert add_all(found, [math.nan, math.nan]) == [False, False]
  assert found.is_over and found.best is None
  assert 'no finite' in found.describe()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
  add_all(history(tmp_path), [1.0, 5.0, 2.0])
  resumed = history(tmp_path, last_step=1, patience=1)
  assert resumed.best.step == 1 and not resumed.is_over
  # Step 2 again, counted once.
  assert add_all(resumed, [5.0, 2.0], first=2) == [True, False]
  again = history(tmp_path, last_step=9, patience=1)
  assert again.best == best.Evaluation(2, 5.0) and again.is_over


def test_another_metric_begins_anew(tmp_path):
  add_all(history(tmp_path), [1.0])
  other = best.History(best.BestCheckpoint('training_eval/loss'), tmp_path, 9)
  assert other.best is None


def test_a_metric_that_is_not_measured_names_the_nearest(tmp_path):
  with pytest.raises(errors.ConfigError, match="Did you mean 'training_eval/a"):
    history(tmp_path).add(1, {'training_eval/accurac': 1.0, 'loss': 2.0})


@pytest.mark.parametrize(
  'options',
  [
    {'metric_mode': 'maximum'},
    {'patience': 0},
    {'metric_name_to_monitor': None, 'patience': 2},
  ],
)
def test_options_are_checked(options):
  with pytest.raises(errors.ConfigError):
    best.BestCheckpoint(**{'metric_name_to_monitor': NAME, **options})


def test_only_the_best_checkpoint_and_the_users_are_pinned(tmp_path):
  for step in (1, 2, 3):
    (tmp_path / f'checkpoint_{step}').mkdir()
  (tmp_path / 'checkpoint_1' / best.PINNED).write_bytes(b'\xff')
  found = history(tmp_path)

  def pinned():
    return sorted(x.parent.name for x in tmp_path.glob('*/PINNED'))

  found.add(2, {NAME: 1.0})
  found.pin()
  assert pinned() == ['checkpoint_1', 'checkpoint_2']
  found.add(3, {NAME: 2.0})
  # Killed here: the next run pins.
  history(tmp_path, last_step=3)
  assert pinned() == ['checkpoint_1', 'checkpoint_3']
