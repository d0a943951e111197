"""Evaluation by decoding, through seqio's Evaluator: T5X's `infer_eval`.

    validation examples --model.generate--> tokens, exits, confidences
      --the task's metrics--> inference_eval/, best checkpoint

Metrics get `scores`, `exits` and `confidences` as their `aux_values`, under
T5X CALM's names.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from calm_jax import errors
from calm_jax.data import arrays, seqio_tasks
from calm_jax.decode import checks, decode_fns, outputs
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import sampling
from calm_jax.parallel import partitioning
from calm_jax.training import writers

FOLDER = 'inference_eval'

# (step, params) -> metric -> value, for each task.
Evaluate = Callable[[int, Any], dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferEvaluation:
  """What is decoded at every evaluation.

  Attributes:
    model: the network and its exits.
    mixture_or_task_name: of seqio, or ours. Tasks without metrics are left out,
      as seqio does.
    task_feature_lengths: greatest number of tokens of inputs and targets; the
      latter bounds the outputs.
    split: of the task.
    batch_size: examples decoded side by side.
    num_examples: the first ones of each task; None for all of them.
    threshold: of the exits; 1 is the full model.
    decode_fn: how tokens are chosen.
    num_decodes: draws or beams per example, of which the best one counts.
    write_n_results: examples written at every evaluation; None for all of them.

  Raises:
    ConfigError: a threshold outside [0, 1], a bad feature length, or several
      decodes that would be the same.
  """

  model: model_lib.EncoderDecoderModel
  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int]
  split: str = 'validation'
  batch_size: int = 32
  num_examples: int | None = None
  threshold: float = 1.0
  decode_fn: decode_fns.DecodeFn = decode_fns.Greedy()
  num_decodes: int = 1
  write_n_results: int | None = None

  def __post_init__(self):
    checks.check_thresholds(self.threshold)
    checks.check_num_decodes(self.num_decodes, self.decode_fn)
    arrays.checked_lengths(self.task_feature_lengths)

  def open(
    self, model_dir: pathlib.Path, last_step: int, *, is_writer: bool = True
  ) -> Evaluate:
    """Reads the examples, once for all evaluations.

    Args:
      model_dir: receives `inference_eval/`.
      last_step: metrics of later steps, left by a run that went further than
        its last checkpoint or was killed in the middle of an evaluation, are
        dropped.
      is_writer: whether this process writes.

    Raises:
      ConfigError: no task has the split and a metric.
      DataError: the split has no examples.
    """
    from calm_jax.training import seqio_logs

    folder = model_dir / FOLDER
    if is_writer:
      for path in folder.glob('*-metrics.jsonl'):
        writers.drop_entries_after(path, last_step)
    seqio_tasks.add_to_seqio(self.mixture_or_task_name)
    evaluator = _evaluator(
      self.mixture_or_task_name,
      eval_split=self.split,
      sequence_length=dict(self.task_feature_lengths),
      num_examples=self.num_examples,
      logger_cls=(
        seqio_logs.logger_classes(self.write_n_results) if is_writer else ()
      ),
      log_dir=str(folder),
    )
    self._check(evaluator)
    if is_writer:
      folder.mkdir(parents=True, exist_ok=True)
    score = jax.jit(self.model.score_batch)
    predict = jax.jit(self._traceable_predict)

    def evaluate(step: int, params: Any) -> dict[str, dict[str, float]]:
      found = {}  # Tokens alone and with aux_values cost one decoding.

      def decode(dataset):
        if id(dataset) not in found:
          found[id(dataset)] = self._decode(predict, params, dataset)
        tokens, aux = found[id(dataset)]
        return list(tokens), dict(aux)

      result, _ = evaluator.evaluate(
        compute_metrics=True,
        step=step,
        predict_fn=lambda dataset: decode(dataset)[0],
        predict_with_aux_fn=decode,
        score_fn=lambda dataset: self._score(score, params, dataset),
      )
      return {
        task: seqio_logs.as_numbers(values)
        for task, values in result.result().items()
      }

    return evaluate

  def _traceable_predict(self, params, batch):
    """Tokens [batch, target], and `outputs.by_source`'s others."""
    source = batch['encoder_input_tokens']
    shape = (source.shape[0], self.num_decodes)
    draws = isinstance(self.decode_fn, sampling.Sampler)
    request = self.model.request(
      source,
      np.full(shape, self.threshold),
      seeds=request_lib.row_seeds(jax.random.key(0), *shape) if draws else None,
      decode_fn=self.decode_fn,
      max_decode_length=batch['decoder_input_tokens'].shape[1],
    )
    return outputs.by_source(request, self.model.generate(params, request))

  def _check(self, evaluator) -> None:
    if not evaluator.eval_tasks:
      raise errors.ConfigError(
        f'{self.mixture_or_task_name} must have a split {self.split!r} and'
        ' metrics (metric_fns) to be evaluated by decoding; it has not both.'
      )
    for task in evaluator.eval_tasks:
      dataset = evaluator.cached_task_datasets[task.name]
      if not dataset.cardinality().numpy():
        raise errors.DataError(
          f'The split {self.split!r} of {task.name} must hold at least one'
          ' example to evaluate, got none.'
        )

  def _decode(self, predict, params, dataset):
    """[(index, tokens)], and per-example lists by name."""
    rows, aux = [], {}
    for indices, batch in self._batches(dataset):
      tokens, values = partitioning.to_host(predict(params, batch))
      count = len(indices)
      rows += zip(indices.tolist(), tokens[:count].tolist(), strict=True)
      for name, value in values.items():
        aux.setdefault(name, []).extend(value[:count].tolist())
    return rows, aux

  def _score(self, score, params, dataset) -> list[tuple[int, float]]:
    rows = []
    for indices, batch in self._batches(dataset):
      scores = partitioning.to_host(score(params, batch))
      scores = scores[: len(indices)].tolist()
      rows += zip(indices.tolist(), scores, strict=True)
    return rows

  def _batches(self, dataset):
    """(indices, batch), the last batch filled up with empty rows."""
    for indices, features in dataset.batch(self.batch_size).as_numpy_iterator():
      missing = ((0, self.batch_size - len(indices)), (0, 0))
      yield indices, {k: np.pad(x, missing) for k, x in features.items()}


def exit_metrics(
  targets: Sequence[Any],
  predictions: Sequence[Any],
  aux_values: Mapping[str, Sequence[Any]],
) -> dict[str, float]:
  """Means over all generated tokens, as a metric of seqio's.

  Returns:
    `layers_per_token`, and `confidence` at the layer where each token left.
    Nothing where decoding has no exits, as a beam search.
  """
  del targets, predictions
  if 'exits' not in aux_values:
    return {}
  exits = np.asarray(aux_values['exits'])
  confidences = np.asarray(aux_values['confidences'])
  is_token = exits > 0
  count = max(int(is_token.sum()), 1)
  return {
    'layers_per_token': float(exits[is_token].sum() / count),
    'confidence': float(confidences[is_token].sum() / count),
  }


def _evaluator(name: str, **options):
  """seqio's, with `exit_metrics` added to each task's own metrics."""
  import seqio

  class Evaluator(seqio.Evaluator):
    @functools.cached_property
    def eval_tasks(self):
      return [
        task.replace(metric_fns=[*task.metric_fns, exit_metrics])
        for task in super().eval_tasks
      ]

  return Evaluator(
    name,
    seqio.EncDecFeatureConverter(pack=False),
    # The loop waits for the values.
    async_compute_metrics=False,
    **options,
  )
