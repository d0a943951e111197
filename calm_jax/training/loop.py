"""The training loop: steps, logs, evaluations, checkpoints.

    batches --step--> state --every so often--> metrics, MODEL_DIR/checkpoint_N

Running the same command again resumes from the newest checkpoint and ends with
the parameters, lines of metrics, evaluations and best checkpoint of a run that
was never interrupted, at whatever moment it was killed.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable
from typing import Protocol

import jax
import numpy as np
from flax import linen as nn

from calm_jax import errors
from calm_jax.checkpoints import orbax_io
from calm_jax.parallel import multihost, partitioning
from calm_jax.records import json_records
from calm_jax.training import (
  batch_reader,
  best,
  evaluations,
  infer_eval,
  initial_state,
  logs,
  model_info,
  objectives,
  optimizers,
  signals,
  state,
  step,
)

SAVED_AFTER_SIGNAL = 143


class HasModule(Protocol):
  """What the loop needs of a model."""

  module: nn.Module


@dataclasses.dataclass(frozen=True)
class Periods:
  """How often things happen, in steps.

  Attributes:
    log: metrics are written.
    evaluate: the validation batches are scored.
    checkpoint: the state is saved.
  """

  log: int = 50
  evaluate: int = 1000
  checkpoint: int = 1000

  def __post_init__(self):
    for name, period in dataclasses.asdict(self).items():
      if period < 1:
        raise errors.ConfigError(
          f'Periods.{name} must be at least 1 step, got {period}.'
        )

  def due(self, step_number: int, total_steps: int) -> set[str]:
    """Names of what happens after a step: all of it after the last one."""
    return {
      name
      for name, period in dataclasses.asdict(self).items()
      if step_number == total_steps or step_number % period == 0
    }


def train(
  model: HasModule,
  batches: batch_reader.Batches,
  optimizer: optimizers.Optimizer,
  model_dir: str | os.PathLike,
  total_steps: int,
  objective: objectives.Objective = step.LayerWeightedObjective(),  # noqa: B008
  eval_batches: Iterable[state.Batch | tuple[state.Batch, int]] | None = None,
  periods: Periods = Periods(),  # noqa: B008
  seed: int = 0,
  checkpoints_to_keep: int | None = 3,
  initial_checkpoint_path: str | os.PathLike | None = None,
  partitioner: partitioning.PjitPartitioner | None = None,
  infer_evaluation: infer_eval.InferEvaluation | None = None,
  best_checkpoint: best.BestCheckpoint = best.BestCheckpoint(),  # noqa: B008
) -> state.TrainState:
  """Trains until `total_steps`, resuming from `model_dir` if it can.

  Parameters come from the newest checkpoint in `model_dir`, else from
  `initial_checkpoint_path`, else from the seed: T5X's order.

  Args:
    model: its `module` is a `t5.network.Transformer`.
    batches: has `batch_at(step)`, or is called with the first step and gives an
      iterator.
    optimizer: from `calm_jax.training.optimizers`.
    model_dir: receives `checkpoint_<step>/`, `model-info.txt`, `train/`,
      `training_eval/`, `evaluated_steps.json`, and of the options below
      `inference_eval/` and `best_checkpoint.json`.
    total_steps: steps in all, those before a resume included.
    objective: layer weights and loss options.
    eval_batches: kept in memory; may be what `data.batches.eval_batches` gives,
      whose counts of real rows are not needed.
    periods: of logs, evaluations and checkpoints.
    seed: of parameters, dropout and sampled layers.
    checkpoints_to_keep: older ones are deleted; None keeps all.
    initial_checkpoint_path: any model that `checkpoints.load.load_model` reads.
      Only its parameters are used: steps count from 0 and the optimizer's
      accumulators are fresh.
    partitioner: divides state and batches among devices; None trains on one.
    infer_evaluation: what is decoded at every evaluation.
    best_checkpoint: which checkpoint is kept besides the newest ones, and when
      to stop early.

  Returns:
    The final state.

  Raises:
    LostPeerError: another process of the run has gone.
    ConfigError: total_steps is less than 1 or than the newest checkpoint's, a
      batch does not divide among the devices, or the metric of best_checkpoint
      is not measured.
    DataError: there is no model at initial_checkpoint_path, or of other sizes;
      a file of the run is damaged; or the batches end too early.
    NumericError: the loss or the gradient is not finite; checkpoints stay as
      they were at the last period.
    SystemExit: 143, after a SIGTERM or SIGINT; the state is saved first.
  """
  if total_steps < 1:
    raise errors.ConfigError(
      f'total_steps (TRAIN_STEPS) must be at least 1, got {total_steps}.'
    )
  model_dir = pathlib.Path(model_dir).absolute()
  store = orbax_io.CheckpointStore(model_dir, keep=checkpoints_to_keep)
  partitioner = partitioner or partitioning.PjitPartitioner(
    devices=jax.local_devices()[:1]
  )
  multihost.assert_same(
    {'newest checkpoint in MODEL_DIR': str(store.latest_step())},
    'MODEL_DIR must be a folder that all hosts share.',
  )
  with multihost.phase('restore'):
    example = next(batch_reader.batches_from(batches, 0))
    partitioner.check_batch(example)
    _check_goes_on(store.latest_step(), total_steps)
    train_state = initial_state.restore_or_create(
      store, objective, model.module, optimizer, example, seed,
      initial_checkpoint_path, partitioner,
    )  # fmt: skip
  start = int(train_state.step)
  is_writer = multihost.is_writer()
  score = _scorer(objective, model.module, partitioner, eval_batches)
  if is_writer:
    _describe_model(model_dir, model.module, train_state, partitioner)
  run_logs = (
    logs.RunLogs(model_dir, total_steps, start, objective)
    if is_writer
    else logs.NoLogs()
  )
  run = _Run(
    store=store,
    train_step=partitioner.partition_step(
      model.module,
      objective.make_train_step(model.module, optimizer, seed),
      train_state,
    ),
    evaluations=evaluations.open_evaluations(
      model_dir,
      start,
      is_due=start > 0 and 'evaluate' in periods.due(start, total_steps),
      score=score,
      infer_evaluation=infer_evaluation,
      best_checkpoint=best_checkpoint,
      run_logs=run_logs,
      is_writer=is_writer,
    ),
    partitioner=partitioner,
    periods=periods,
    total_steps=total_steps,
    logs=run_logs,
  )
  if start == 0 and optimizer.start_message:
    run_logs.progress.message(optimizer.start_message)
  try:
    return run.run(train_state, batches)
  finally:
    store.close()
    run_logs.close()


def _check_goes_on(latest: int | None, total_steps: int) -> None:
  if latest is not None and latest > total_steps:
    raise errors.ConfigError(
      f'total_steps must be at least {latest}, the step of the newest'
      f' checkpoint, got {total_steps}; raise it or choose a new model_dir.'
    )


def _describe_model(model_dir, module, train_state, partitioner) -> None:
  params = train_state.params
  info = model_info.describe(params, partitioner.shardings(module, params))
  json_records.write_bytes_atomically(
    model_dir / model_info.FILE_NAME, info.encode('utf-8')
  )


def _scorer(objective, module, partitioner, eval_batches):
  """params -> metrics; None without batches."""
  placed = tuple(map(partitioner.put_batch, _without_counts(eval_batches)))
  if not placed:
    return None
  evaluate = objective.make_evaluator(module)
  return lambda params: evaluate(params, placed)


def _without_counts(eval_batches) -> tuple[state.Batch, ...]:
  return tuple(
    entry[0] if isinstance(entry, tuple) else entry
    for entry in eval_batches or ()
  )


@dataclasses.dataclass
class _Run:
  """One call of `train`: what stays the same from step to step."""

  store: orbax_io.CheckpointStore
  train_step: objectives.TrainStep
  evaluations: evaluations.Evaluations
  periods: Periods
  partitioner: partitioning.PjitPartitioner
  total_steps: int
  logs: logs.RunLogs
  shapes: set[tuple] = dataclasses.field(default_factory=set)
  saved_step: int | None = None
  reader: batch_reader.BatchReader | None = None

  def run(self, train_state: state.TrainState, batches) -> state.TrainState:
    """Steps until the end or a signal."""
    start = int(train_state.step)
    self.saved_step = start if start else None
    self.logs.progress.message(
      f'{state.num_parameters(train_state.params):,} parameters, steps {start}'
      f' to {self.total_steps}'
    )
    if self.evaluations.is_missed:
      self._evaluate(start, train_state)
    if start == self.total_steps or self._is_over(start):
      return train_state
    # Sums of the step that may still be running: reading them only after the
    # next step is queued keeps the device busy while the host works.
    pending = None
    self.reader = batch_reader.BatchReader(
      batches, self.partitioner, self.store.directory, start
    )
    agreement = multihost.StopAgreement()
    with signals.StopRequest() as stop:
      for number in range(start + 1, self.total_steps + 1):
        with multihost.phase(f'step {number}'):
          train_state, sums = self._dispatch(train_state, next(self.reader))
          self._finish(pending)
          pending = (number, sums)
          at_stop = agreement.reached(stop.received is not None)
          due = self.periods.due(number, self.total_steps)
          if at_stop or due:
            self._finish(pending)
            pending = None
            self._do_duties(number, train_state, due, at_stop)
        if at_stop:
          self._leave(number, stop.received)
        if self._is_over(number):
          if self.saved_step != number:
            self._save(number, train_state)
          break
    return train_state

  def _is_over(self, number: int) -> bool:
    if number == self.total_steps or not self.evaluations.is_over:
      return False
    self.logs.progress.message(
      f'step {number}: stopped early; {self.evaluations.history.describe()}'
    )
    return True

  def _dispatch(self, train_state, batch):
    shape = tuple(sorted((k, np.shape(v)) for k, v in batch.items()))
    started = time.monotonic()
    result = self.train_step(train_state, batch)
    if shape not in self.shapes:
      # The first call with these shapes returns once it has compiled.
      seconds = time.monotonic() - started
      self.shapes.add(shape)
      self.logs.exclude('compilation', seconds)
      self.logs.progress.message(
        f'compiled in {seconds:.1f} s for batch shape {len(self.shapes)}:'
        f' source {np.shape(batch["encoder_input_tokens"])},'
        f' target {np.shape(batch["decoder_target_tokens"])}'
      )
    return result

  def _finish(self, pending):
    if pending is None:
      return
    number, sums = pending
    sums = jax.device_get(sums)
    for name in ('loss', 'gradient_norm'):
      if not np.isfinite(sums[name]):
        raise errors.NumericError(
          f'The {name} must be finite, got {sums[name]} at step {number};'
          f' {self._last_good()}. Lower the learning rate, clip gradients or'
          ' look at the batch.'
        )
    self.logs.add(sums)

  def _last_good(self) -> str:
    if self.saved_step is None:
      return 'no checkpoint had been saved'
    return f'the checkpoint of step {self.saved_step} is kept'

  def _do_duties(self, number: int, train_state, due: set[str], at_stop: bool):
    if 'log' in due:
      self.logs.write(number)
    if at_stop or 'checkpoint' in due:
      with multihost.phase(f'checkpoint of step {number}'):
        self._timed('checkpoint', self._save, number, train_state)
    if self.evaluations and not at_stop and 'evaluate' in due:
      with multihost.phase(f'evaluation at step {number}'):
        self._timed('evaluate', self._evaluate, number, train_state)

  def _timed(self, reason, function, *args):
    started = time.monotonic()
    function(*args)
    self.logs.exclude(reason, time.monotonic() - started)

  def _save(self, number: int, train_state: state.TrainState):
    # First, so that a resumed run has no sums of earlier steps to remember.
    self.logs.write(number)
    self.store.save(number, train_state.as_dict())
    self.reader.save_place(number)
    self.saved_step = number

  def _evaluate(self, number: int, train_state: state.TrainState):
    if self.evaluations.run(number, train_state.params):
      if self.saved_step != number:
        self._save(number, train_state)
      self.evaluations.history.pin()

  def _leave(self, number: int, received):
    # Another process may be the one that was asked to stop.
    name = received.name if received else 'a signal to another process'
    self.logs.progress.message(
      f'{name}: saved step {number}; the same command resumes there.'
    )
    raise SystemExit(SAVED_AFTER_SIGNAL)
