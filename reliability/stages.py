"""The stages that are killed, at a size of seconds, and what they must give."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

# Written by every run again: clocks, process ids, and what killed writes leave.
_LOCKS = ('lock',)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One command.

  Attributes:
    name: of the stage.
    argv: of `calm`, from the folder of a run.
    contents: folder of a run -> digests of its results by name.
  """

  name: str
  argv: tuple[str, ...]
  contents: Callable[[pathlib.Path], dict[str, str]]


def write_inputs(folder: pathlib.Path) -> None:
  """A task of 400 pairs of texts, a dozen of which are test texts."""
  lines = ['question\tanswer']
  lines += [f'what is the number {i}?\tThe number {i}.' for i in range(400)]
  (folder / 'numbers.tsv').write_text('\n'.join(lines), encoding='utf-8')


def task_flags(inputs: pathlib.Path) -> tuple[str, ...]:
  """A tiny model and that task, by gin."""
  return (
    '--gin_file=gin/experiments/tiny.gin',
    '--gin_file=gin/tasks/file.gin',
    '--gin.TASK_NAME="numbers"',
    f'--gin.TASK_FILES="{inputs}/numbers.tsv"',
    '--gin.TASK_INPUTS="question"',
    '--gin.TASK_TARGETS="answer"',
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 16, "targets": 8}',
    '--gin.BUCKET_BOUNDARIES=(16,)',
  )


def train(inputs: pathlib.Path) -> Stage:
  """Twenty steps, a checkpoint every four, an evaluation every eight."""
  argv = (
    'train',
    *task_flags(inputs),
    '--gin.MODEL_DIR="model"',
    '--gin.TRAIN_STEPS=20',
    '--gin.CHECKPOINT_PERIOD=4',
    '--gin.EVAL_PERIOD=8',
    '--gin.LOG_PERIOD=4',
  )
  return Stage('train', argv, lambda run: arrays_of(run / 'model'))


def dump(inputs: pathlib.Path, split: str, folder: str = 'dump') -> Stage:
  """Twenty-four texts, a shard every four."""
  argv = (
    'dump',
    *task_flags(inputs),
    '--gin.MODEL_DIR="unused"',
    f'--model={inputs}/model',
    f'--split={split}',
    '--thresholds=1,0.01,0.002,0.0005,0',
    '--max_examples=24',
    '--examples_per_shard=4',
    f'--output_dir={folder}',
  )
  return Stage('dump', argv, lambda run: files_of(run / folder))


def infer(inputs: pathlib.Path) -> Stage:
  """Forty texts, a chunk every four."""
  argv = (
    'infer',
    *task_flags(inputs),
    '--gin.MODEL_DIR="unused"',
    f'--model={inputs}/model',
    '--split=train',
    '--threshold=0.002',
    '--max_examples=40',
    '--batch_size=2',
    '--checkpoint_period=2',
    '--output_dir=infer',
  )
  return Stage('infer', argv, lambda run: files_of(run / 'infer'))


def calibrate(inputs: pathlib.Path) -> Stage:
  """Of the calibration dump, for the report."""
  argv = ('calibrate', f'--dump_dir={inputs}/calibration_dump')
  argv += (f'--output={inputs}/calibration.json', '--tolerance=0.9')
  return Stage('calibrate', argv, lambda run: {})


def evaluate(inputs: pathlib.Path) -> Stage:
  """Of the test dump, for the report."""
  argv = (
    'evaluate',
    *task_flags(inputs),
    '--gin.MODEL_DIR="unused"',
    f'--model={inputs}/model',
    f'--dump_dir={inputs}/test_dump',
    f'--calibration={inputs}/calibration.json',
    f'--output={inputs}/evaluation.json',
    '--timed_examples=2',
  )
  return Stage('evaluate', argv, lambda run: {})


def report(inputs: pathlib.Path) -> Stage:
  """The page and its figures."""
  argv = (
    'report',
    f'--calibration={inputs}/calibration.json',
    f'--evaluation={inputs}/evaluation.json',
    f'--dump_dir={inputs}/test_dump',
    '--output_dir=report',
  )
  return Stage('report', argv, lambda run: files_of(run / 'report'))


def files_of(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of each file, also of those that should not be there."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name not in _LOCKS
  }


def arrays_of(model_dir: pathlib.Path) -> dict[str, str]:
  """SHA-256 of each array of the newest checkpoint, the optimizer's too.

  Also how many checkpoints there are, and the lines of evaluations, which count
  whatever was interrupted. Starts JAX, so it is called in a child.
  """
  import numpy as np
  import orbax.checkpoint as ocp

  from calm_jax.checkpoints import param_trees

  steps = sorted(int(x.name[11:]) for x in model_dir.glob('checkpoint_*'))
  # A run that a signal ended has saved one more on its way.
  found = {'checkpoints': f'{len(steps)}, the newest {steps[-1]}'}
  tree = ocp.PyTreeCheckpointer().restore(
    model_dir / f'checkpoint_{steps[-1]}' / 'state'
  )
  for name, value in param_trees.flatten(tree).items():
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(f'{array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
    found[name] = digest.hexdigest()
  config = (model_dir / 'config.gin').read_text(encoding='utf-8')
  found['config.gin'] = config.replace(str(model_dir), 'MODEL_DIR')
  return found | evaluations_of(model_dir)


def evaluations_of(model_dir: pathlib.Path) -> dict[str, str]:
  """Metrics of the last evaluation of each step."""
  found = {}
  for path in sorted(model_dir.rglob('*.jsonl')):
    if 'eval' not in str(path.relative_to(model_dir)):
      continue
    for line in path.read_text().splitlines():
      fields = json.loads(line)
      fields = {k: v for k, v in fields.items() if 'second' not in k}
      found[f'{path.name} {fields.get("step")}'] = json.dumps(fields)
  return found
