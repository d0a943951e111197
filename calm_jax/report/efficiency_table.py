"""Several results in the shape of CALM's Table 2.

    pairs -> rows of objective, tolerance, measure, layers, FLOPs, speedup

The paper's numbers stand next to a row only where it answers the same question;
`paper_numbers.find` decides.
"""

import dataclasses
from collections.abc import Sequence

from calm_jax.display import visible_text
from calm_jax.report import pairs, paper_numbers, wording


@dataclasses.dataclass(frozen=True)
class EfficiencyRow:
  """One calibrated threshold; numbers as text, '-' where they are not known."""

  task: str
  consistency: str
  tolerance: str
  measure: str
  layers: str
  flops_reduction: str
  without_output_embedding: str
  speedup: str
  decoder_speedup: str
  paper: paper_numbers.PaperRow | None


def efficiency_rows(
  results: Sequence[pairs.Pair],
) -> tuple[EfficiencyRow, ...]:
  """Returns a row for each result, in the paper's order within each task."""
  ordered = sorted(
    results,
    key=lambda pair: (
      pair.evaluation.task,
      # 'textual' before both risks.
      pair.evaluation.consistency != 'textual',
      pair.evaluation.consistency,
      pair.evaluation.tolerance,
    ),
  )
  return tuple(map(_row, ordered))


def efficiency_text(results: Sequence[pairs.Pair]) -> str:
  """Returns the table as text for a terminal; the paper's rows below ours."""
  lines = [_line('', '', '', 'layers', 'FLOPs', 'speedup'), '-' * 72]
  task = None
  for row in efficiency_rows(results):
    if row.task != task:
      lines.append(f'{row.task} (FLOPs: reduction, full over early)')
    task = row.task
    lines.append(
      _line(
        f'  {row.consistency}',
        row.tolerance,
        row.measure,
        row.layers,
        row.flops_reduction,
        row.speedup,
      )
    )
    if row.paper:
      lines.append(
        _line(
          '',
          '',
          f'paper: {row.paper.measure}',
          f'{row.paper.layers:.2f}',
          f'{row.paper.flops_reduction:.2f}',
          f'{row.paper.speedup:.2f}',
        )
      )
  # Names come from files, and a terminal obeys control characters.
  return '\n'.join(map(visible_text.visible, lines))


def _row(pair: pairs.Pair) -> EfficiencyRow:
  result = pair.evaluation
  return EfficiencyRow(
    task=result.task,
    consistency=result.consistency,
    tolerance=f'{result.tolerance:g}',
    measure=pair.measure.name,
    layers=f'{result.calibrated.mean_layers:.2f}',
    flops_reduction=wording.ratio(result.flops_reduction),
    without_output_embedding=wording.ratio(
      result.flops_reduction_without_output_embedding
    ),
    speedup=wording.ratio(result.speedup),
    decoder_speedup=wording.ratio(result.decoder_speedup),
    paper=paper_numbers.find(
      task=result.task,
      metric=result.metric,
      consistency=result.consistency,
      tolerance=result.tolerance,
      failure_prob=pair.failure_prob,
      measure=pair.measure,
      num_decoder_layers=pair.num_decoder_layers,
    ),
  )


def _line(objective, tolerance, measure, layers, flops, speedup) -> str:
  left = f'{objective:<18}{tolerance:>6}  {measure:<22}'
  return f'{left}{layers:>8}{flops:>8}{speedup:>8}'.rstrip()
