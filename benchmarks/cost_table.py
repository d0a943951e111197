"""The table of docs/measures.md: what each measure adds to a decoder layer.

python -m benchmarks.cost_table
"""

from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  saturation,
  softmax,
  top_k,
)
from calm_jax.evaluation import measure_costs, network_sizes
from calm_jax.records import descriptions

# CALM's 8-layer model, at the middle of a summary of its CNN/DM.
SIZES = network_sizes.NetworkSizes(
  emb_dim=512,
  num_heads=6,
  head_dim=64,
  mlp_dim=1024,
  num_mlp_inputs=2,
  num_decoder_layers=8,
  vocab_size=32128,
)
POSITION = 40

_KINDS = {
  'linear classifier': classifiers.Linear(),
  'MLP classifier, 256': classifiers.Mlp(),
  'attention classifier, 64': classifiers.Attention(),
  'attention classifier, 512': classifiers.Attention(width=512, num_heads=8),
}


def table() -> str:
  """Parameters, and millions of operations per measurement, as Markdown."""
  lines = [
    '| measure | parameters | million operations per measurement |',
    '|---|---:|---:|',
  ]
  for name, measure, kind in _rows():
    parameters = 0
    if kind is not None:
      parameters = classifiers.num_parameters(
        kind, SIZES.emb_dim, SIZES.num_decoder_layers
      )
    lines.append(
      f'| {name} | {parameters:,} | {_operations(measure) / 1e6:.3f} |'
    )
  return '\n'.join(lines)


def _rows():
  yield 'softmax response', softmax.SoftmaxTopTwoGap(), None
  for k in (16, 64, 256):
    yield f'top-k propagation, K = {k}', top_k.TopKPropagation(k=k), None
  yield 'hidden-state saturation', saturation.HiddenStateSaturation(), None
  for name, kind in _KINDS.items():
    yield name, classifier_confidence.ClassifierConfidence(kind), kind


def _operations(measure) -> float:
  """Of one measurement after the first exit, the embedding's included."""
  cost = measure_costs.cost_of(descriptions.describe(measure))
  exits = tuple(range(1, SIZES.num_decoder_layers + 1))
  embedding = cost.output_embedding(SIZES, exits)
  return float(
    embedding[2] - embedding[1] + cost.per_measurement(SIZES, POSITION)
  )


if __name__ == '__main__':
  print(table())
