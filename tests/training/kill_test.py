"""Killed before any one of its writes, a run started again ends as if whole."""

import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen import partitioning as nn_partitioning

from calm_jax.checkpoints import orbax_io
from calm_jax.parallel import partitioning
from calm_jax.records import json_records
from calm_jax.training import best, infer_eval, loop, optimizers, state, writers

PERIODS = loop.Periods(log=3, evaluate=2, checkpoint=4)
# The best is at a step without a checkpoint of its own; two worse ones end it.
ACCURACIES = {2: 0.1, 4: 0.3, 6: 0.5, 8: 0.2, 10: 0.4}
LAST = 10
OPTIMIZER = optimizers.Optimizer(optax.identity(), lambda step: 0.1)


class Killed(BaseException):
  """What nothing catches."""


class Killer:
  """Counts the moments of a run and ends it at one of them."""

  def __init__(self):
    self.passed = 0
    self.at = None

  def moment(self):
    self.passed += 1
    if self.passed == self.at:
      raise Killed

  @property
  def is_next(self):
    return self.passed + 1 == self.at


class Module:
  """What is asked of a network: its parameter's shape and axis."""

  def init(self, rng, *tokens, enable_dropout):
    axes = nn_partitioning.AxisMetadata(names=('embed',))
    return {'params': {'w': jnp.zeros(2)}, 'params_axes': {'w_axes': axes}}


class Batches:
  def batch_at(self, step):
    tokens = np.full((1, 2), step, np.int32)
    return {
      name: tokens
      for name in (
        'encoder_input_tokens',
        'decoder_input_tokens',
        'decoder_target_tokens',
      )
    }


class Objective:
  """The parameters count the steps; the loss is that of the batch."""

  def create_state(self, module, optimizer, rng, batch, initial_params):
    params = {'w': jnp.zeros(2)}
    return state.TrainState(jnp.int32(0), params, {'m': jnp.zeros(2)})

  def make_train_step(self, module, optimizer, seed):
    def train_step(train_state, batch):
      token = batch['encoder_input_tokens'][0, 0]
      sums = {
        'steps': 1.0,
        'loss': np.float32(0.1) * token,
        'gradient_norm': 1.0,
        'learning_rate': 0.1,
        'layer_loss': np.float32([0.7, 0.3]) * token,
      }
      params = {'w': train_state.params['w'] + 1}
      return train_state.replace(step=train_state.step + 1, params=params), sums

    return train_step

  def make_evaluator(self, module):
    return lambda params, batches: {'accuracy': ACCURACIES[int(params['w'][0])]}

  def training_metrics(self, total, seconds):
    return {
      'loss': float(total['loss'] / total['steps']),
      'layer_1': float(total['layer_loss'][0] / total['steps']),
      'learning_rate': 0.1,
      'timing/steps_per_second': float(total['steps'] / seconds),
    }

  def training_line(self, values):
    return ''

  def evaluation_lines(self, values):
    return [str(values)]


class Infer:
  """Writes for two tasks as seqio does."""

  def __init__(self, killer):
    self._killer = killer

  def open(self, model_dir, last_step, *, is_writer):
    folder = model_dir / infer_eval.FOLDER
    folder.mkdir(exist_ok=True)
    for path in folder.glob('*-metrics.jsonl'):
      writers.drop_entries_after(path, last_step)

    def evaluate(step, params):
      found = {}
      for task in ('a', 'b'):
        self._killer.moment()
        with (folder / f'{task}-metrics.jsonl').open('a') as file:
          file.write(json.dumps({'step': step, 'bleu': step / 7}) + '\n')
        self._killer.moment()
        (folder / f'{task}-{step:06}.jsonl').write_text(f'{params["w"]}')
        found[task] = {'bleu': step / 7}
      return found

    return evaluate


class Store:
  """`orbax_io.CheckpointStore` in a hundredth of the time."""

  def __init__(self, directory, keep):
    self.directory, self._keep = directory, keep
    directory.mkdir(exist_ok=True)
    shutil.rmtree(directory / 'unfinished', ignore_errors=True)

  def latest_step(self):
    steps = self._steps()
    return steps[-1] if steps else None

  def _steps(self):
    found = self.directory.glob('checkpoint_*')
    return sorted(int(path.name.removeprefix('checkpoint_')) for path in found)

  def save(self, step, tree):
    assert step not in self._steps()
    unfinished = self.directory / 'unfinished'
    unfinished.mkdir()
    leaves = jax.tree.map(np.asarray, tree)
    np.savez(unfinished / 'state', *jax.tree.leaves(leaves))
    unfinished.rename(self.directory / f'checkpoint_{step}')
    for old in self._steps()[: -self._keep]:
      folder = self.directory / f'checkpoint_{old}'
      if not (folder / best.PINNED).is_file():
        shutil.rmtree(folder)

  def restore(self, step, template):
    with np.load(self.directory / f'checkpoint_{step}/state.npz') as arrays:
      leaves = [arrays[name] for name in arrays.files]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)

  def close(self):
    pass


@pytest.fixture
def killer(monkeypatch):
  """Stands before every write of a run."""
  killer = Killer()

  def after_a_moment(function):
    def wrapped(*args, **options):
      killer.moment()
      return function(*args, **options)

    return wrapped

  write_line = writers.MetricLog.write

  def write_line_or_half(self, step, values):
    killer.moment()
    if killer.is_next:
      with self._path.open('a') as file:
        file.write('{"step": ' + f'{step}, "lo')
    killer.moment()
    write_line(self, step, values)

  monkeypatch.setattr(writers, 'summary_writer', lambda directory: None)
  monkeypatch.setattr(writers.MetricLog, 'write', write_line_or_half)
  monkeypatch.setattr(orbax_io, 'CheckpointStore', Store)
  for owner, name in (
    (json_records, 'write_parts_atomically'),
    (Store, 'save'),
  ):
    monkeypatch.setattr(owner, name, after_a_moment(getattr(owner, name)))
  return killer


MODEL = types.SimpleNamespace(module=Module())
PARTITIONER = partitioning.PjitPartitioner(devices=jax.local_devices()[:1])


def train(model_dir, killer, at=None):
  """Whether the run came to its end."""
  killer.passed, killer.at = 0, at
  try:
    loop.train(
      MODEL,
      Batches(),
      OPTIMIZER,
      model_dir,
      20,
      objective=Objective(),
      eval_batches=[Batches().batch_at(0)],
      periods=PERIODS,
      checkpoints_to_keep=1,
      partitioner=PARTITIONER,
      infer_evaluation=Infer(killer),
      best_checkpoint=best.BestCheckpoint('training_eval/accuracy', patience=2),
    )
  except Killed:
    return False
  return True


def begun(model_dir):
  """A folder with the metrics of a task that is not evaluated any more."""
  folder = model_dir / infer_eval.FOLDER
  folder.mkdir(parents=True)
  (folder / 'old-metrics.jsonl').write_text('{"step": 0}\n')
  return model_dir


def outcome(model_dir):
  """What a run leaves, by file, but for times."""
  files = {
    str(path.relative_to(model_dir)): path.read_bytes()
    for path in model_dir.rglob('*')
    if path.is_file()
  }
  lines = map(json.loads, files.pop('train/metrics.jsonl').splitlines())
  files['train'] = [
    {name: x for name, x in line.items() if not name.startswith('timing/')}
    for line in lines
  ]
  return files


def steps_of(model_dir, name):
  lines = (model_dir / name).read_text().splitlines()
  return [json.loads(line)['step'] for line in lines]


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
  killer, tmp_path
):
  whole = begun(tmp_path / 'whole')
  assert train(whole, killer)
  moments = killer.passed
  expected = outcome(whole)
  # Every third step, and before every checkpoint.
  assert [x['step'] for x in expected['train']] == [2, 3, 4, 6, 8, 9, 10]
  for name in ('training_eval/metrics', 'inference_eval/b-metrics'):
    assert steps_of(whole, f'{name}.jsonl') == [2, 4, 6, 8, 10]
  history = json.loads(expected['best_checkpoint.json'])
  assert history['best_step'] == 6
  assert [x['step'] for x in history['evaluations']] == [2, 4, 6, 8, 10]
  assert 'checkpoint_6/PINNED' in expected
  assert f'checkpoint_{LAST}/state.npz' in expected
  assert moments > 50
  for at in range(1, moments + 1):
    folder = begun(tmp_path / f'killed_{at}')
    assert not train(folder, killer, at)
    # Sometimes once more, soon after the start or later.
    train(folder, killer, 1 + at % 13)
    assert train(folder, killer)
    found = outcome(folder)
    assert found.keys() == expected.keys(), at
    for name, content in expected.items():
      assert found[name] == content, (at, name)
    shutil.rmtree(folder)


def test_a_finished_run_started_again_writes_no_evaluation(killer, tmp_path):
  folder = begun(tmp_path / 'run')
  assert train(folder, killer)
  expected = outcome(folder)
  assert train(folder, killer)
  assert outcome(folder) == expected
