"""Table 2 of the paper: test efficiency at 95%, 8 decoder layers.

Schuster et al. 2022, Confident Adaptive Language Modeling, arXiv 2207.07061,
Table 2: mean over 50 random splits, failure probability 0.05, batch size 1 on
one TPU. A row may stand next to ours only where the question is the same: task,
metric, objective, tolerance, confidence, measure and number of layers.
"""

import dataclasses
from collections.abc import Iterator

from calm_jax.records import descriptions

SOURCE = 'Schuster et al. 2022 (arXiv 2207.07061), Table 2'
FAILURE_PROB = 0.05
NUM_DECODER_LAYERS = 8


@dataclasses.dataclass(frozen=True)
class PaperRow:
  """One cell of the table.

  Attributes:
    task: as the paper calls it.
    consistency, tolerance: the objective and delta.
    measure: as the paper calls it.
    layers: decoder layers per token.
    flops_reduction: full model's operations over the early ones; below 1 is
      more operations.
    speedup: measured.
  """

  task: str
  consistency: str
  tolerance: float
  measure: str
  layers: float
  flops_reduction: float
  speedup: float


# Objective, tolerance, measure; then layers, FLOPs reduction and speedup of
# CNN/DM, of WMT and of SQuAD.
_TABLE = """
textual 0.10 softmax     5.73 0.44 1.41  3.35 0.66 2.01  1.65 3.15 1.63
textual 0.10 state       8.00 1.00 1.00  7.68 1.01 1.00  2.00 3.65 1.68
textual 0.10 classifier  7.16 1.03 1.42  5.50 1.06 2.05  2.59 2.37 1.10
textual 0.25 softmax     2.62 0.49 2.57  1.76 0.91 2.83  1.03 5.68 1.88
textual 0.25 state       7.97 1.00 1.01  2.84 1.93 1.55  2.00 3.65 1.68
textual 0.25 classifier  4.51 1.15 2.04  2.97 1.22 2.00  1.37 5.09 1.11
risk    0.02 softmax     3.75 0.47 1.96  3.19 0.67 2.10  1.65 3.15 1.63
risk    0.02 state       7.97 1.00 1.01  7.68 1.01 1.00  3.13 2.11 1.68
risk    0.02 classifier  6.49 1.06 1.71  5.05 1.08 1.97  3.36 1.55 1.11
risk    0.05 softmax     1.73 0.50 3.53  1.96 0.85 2.73  1.65 3.15 1.63
risk    0.05 state       5.22 1.11 1.64  2.72 2.01 1.58  2.00 3.65 1.68
risk    0.05 classifier  2.30 1.25 2.09  3.08 1.21 1.98  2.59 2.37 1.10
"""
_TASKS = ('CNN/DM', 'WMT', 'SQuAD')


def _rows() -> Iterator[PaperRow]:
  for line in _TABLE.strip().splitlines():
    consistency, tolerance, measure, *numbers = line.split()
    for place, task in enumerate(_TASKS):
      cell = map(float, numbers[3 * place : 3 * place + 3])
      yield PaperRow(task, consistency, float(tolerance), measure, *cell)


ROWS = tuple(_rows())

_PAPER_MEASURES = {
  'SoftmaxTopTwoGap': 'softmax',
  'HiddenStateSaturation': 'state',
}
# seqio's names of the paper's tasks, as T5 has them, and the metrics that each
# objective may be made of to ask the same. SQuAD's risk takes the best of a
# question's answers; an output has one line, so both scores of it are the same.
_TASK_NAMES = {
  'cnn_dailymail_v002': 'CNN/DM',
  'wmt15_enfr_v003': 'WMT',
  'squad_v010_allanswers': 'SQuAD',
}
_METRICS: dict[tuple[str | None, str], tuple[str, ...]] = {
  ('CNN/DM', 'textual'): ('rouge_l',),
  ('CNN/DM', 'risk'): ('rouge_l',),
  ('WMT', 'textual'): ('calm_jax.evaluation.bleurt:score',),
  ('WMT', 'risk'): ('sentence_bleu',),
  ('SQuAD', 'textual'): ('token_f1', 'squad_f1'),
  ('SQuAD', 'risk'): ('squad_f1',),
}


def find(
  *,
  task: str,
  metric: str,
  consistency: str,
  tolerance: float,
  failure_prob: float | None,
  measure: descriptions.Description,
  num_decoder_layers: int,
) -> PaperRow | None:
  """Returns the paper's row that answers the same question, if there is one.

  Args:
    task, metric, consistency, tolerance, failure_prob: of our result; no
      failure probability where the guarantee has none.
    measure: ours.
    num_decoder_layers: of our network.
  """
  paper_task = _TASK_NAMES.get(task)
  if (
    num_decoder_layers != NUM_DECODER_LAYERS
    or failure_prob != FAILURE_PROB
    or metric not in _METRICS.get((paper_task, consistency), ())
  ):
    return None
  wanted = (paper_task, consistency, tolerance, _paper_measure(measure))
  return next(
    (
      row
      for row in ROWS
      if (row.task, row.consistency, row.tolerance, row.measure) == wanted
    ),
    None,
  )


def _paper_measure(measure: descriptions.Description) -> str | None:
  """The paper's name of a measure; None if the paper has no such."""
  if measure.kind == 'ClassifierConfidence':
    classifier = measure.knobs['classifier']
    plain = {'norm': False, 'per_layer': False}
    if (
      classifier.kind == 'Linear' and plain.items() <= classifier.knobs.items()
    ):
      return 'classifier'
  return _PAPER_MEASURES.get(measure.kind)
