"""What happens at an evaluation: scores, outputs, and the choice of the best.

params --> teacher-forced scores --> training_eval/
       --> decoded outputs       --> inference_eval/
       --> best.History, which keeps a checkpoint or ends the training
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from calm_jax.training import best, infer_eval, logs, writers


@dataclasses.dataclass(frozen=True)
class Evaluations:
  """The evaluations of a run.

  Attributes:
    score: params -> metrics of the teacher-forced targets, or None.
    infer: decodes, or None.
    history: of the monitored metric, or None.
    logs: of the run.
  """

  score: Callable[[Any], dict[str, float]] | None
  infer: infer_eval.Evaluate | None
  history: best.History | None
  logs: logs.RunLogs

  def __bool__(self) -> bool:
    return self.score is not None or self.infer is not None

  @property
  def is_over(self) -> bool:
    """Whether training is to stop early."""
    return self.history is not None and self.history.is_over

  def run(self, step: int, params: Any) -> bool:
    """Evaluates; returns whether the monitored metric is the best so far.

    Raises:
      ConfigError: the monitored metric is not measured.
    """
    values = {}
    if self.score is not None:
      scores = self.score(params)
      self.logs.write_evaluation(step, scores)
      values |= {f'{logs.TRAINING_EVAL}/{k}': v for k, v in scores.items()}
    if self.infer is not None:
      for task, found in self.infer(step, params).items():
        self.logs.show_metrics(step, task, found)
        prefix = f'{infer_eval.FOLDER}/{task}'
        values |= {f'{prefix}/{k}': v for k, v in found.items()}
    if self.history is None:
      return False
    is_best = self.history.add(step, values)
    self.logs.progress.message(f'step {step}  {self.history.describe()}')
    return is_best


def was_evaluated(model_dir: pathlib.Path, step: int) -> bool:
  """Whether an earlier run evaluated this step, and to the end."""
  files = [
    model_dir / logs.TRAINING_EVAL / writers.METRICS,
    *(model_dir / infer_eval.FOLDER).glob('*-metrics.jsonl'),
  ]
  found = [writers.has_entry(path, step) for path in files if path.exists()]
  return bool(found) and all(found)
