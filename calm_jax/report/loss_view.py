"""One example of the loss list as the page shows it.

contracts.ExampleLoss -> LossView -> report.html.jinja
"""

import dataclasses

from calm_jax.records import contracts
from calm_jax.report import sample_view


@dataclasses.dataclass(frozen=True)
class LossView:
  """An example and the words of the full output that the early one lacks."""

  example: contracts.ExampleLoss
  full_words: tuple[tuple[str, bool], ...]

  @property
  def differs(self) -> bool:
    return self.example.prediction.split() != (
      self.example.full_prediction.split()
    )


def view(example: contracts.ExampleLoss) -> LossView:
  """Prepares an example; escaping is the template's work."""
  return LossView(
    example, sample_view.marked(example.prediction, example.full_prediction)
  )
