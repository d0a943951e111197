"""How often a low-rank preview of the output embedding names the right tokens.

python -m benchmarks.screening_recall --examples 50

For each rank and number of candidates C of `screening.ScreenedTopK`: is the
best token of the whole vocabulary at an exit among the C, are its K best, and
how far is the confidence from the exact one? On the full model's own outputs,
the layer's states teacher-forced on them.
"""

import argparse
import dataclasses
import functools
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.early_exit.measures import screening
from calm_jax.t5 import network


@dataclasses.dataclass(frozen=True)
class Recall:
  """What a first exit at one layer would be offered.

  Attributes:
    rank: of the preview.
    num_candidates: C.
    best: share of states whose best token is a candidate.
    k_best: share of the K best tokens that are candidates.
    confidence_error: mean absolute difference from the exact softmax gap.
    certified: share of states whose best candidate is the best token for sure,
      by Cauchy-Schwarz: no other token's preview, plus the norm of the state
      times the norm of the column along the directions left out, exceeds it.
  """

  rank: int
  num_candidates: int
  best: float
  k_best: float
  confidence_error: float
  certified: float


def recalls(
  config: network.T5Config,
  params: Any,
  hidden: Float[Array, 'states embed'],
  ranks: Sequence[int],
  nums_candidates: Sequence[int],
  k: int,
) -> list[Recall]:
  """Counts for every rank and number of candidates.

  Args:
    config, params: of the network.
    hidden: states above a decoder layer.
    ranks, nums_candidates: of the previews.
    k: how many of the best tokens `k_best` asks for.
  """
  apply = functools.partial(
    network.Transformer(config).apply, {'params': params}
  )
  columns = apply(jnp.arange(config.vocab_size), method='output_columns')
  exact = np.asarray(apply(hidden, method='logits_from_hidden'))
  found = []
  for rank in ranks:
    preview = screening.preview_of(columns, rank, keep=False)
    # As much of a `LayerView` as a preview looks at.
    view = types.SimpleNamespace(hidden=hidden, network=apply)
    approximate, lacking = map(np.asarray, preview.logits(view))
    largest_error = _largest_error(apply, columns, hidden, preview)
    for count in nums_candidates:
      is_candidate = _best(approximate, count)
      best, k_best = _found(exact, is_candidate, k)
      weighed = approximate + lacking[:, None]
      error = _confidence_error(exact, weighed, is_candidate)
      bound = np.where(is_candidate, -np.inf, approximate + largest_error)
      offered = np.where(is_candidate, exact, -np.inf)
      certified = np.mean(offered.max(axis=1) >= bound.max(axis=1))
      found.append(Recall(rank, count, best, k_best, error, float(certified)))
  return found


def _best(logits, count):
  """[states, vocab]: whether a token is one of the best of its state."""
  order = np.argsort(-logits, axis=1, kind='stable')
  is_best = np.zeros(logits.shape, bool)
  np.put_along_axis(is_best, order[:, :count], True, axis=1)
  return is_best


def _found(exact, is_candidate, k):
  """Shares of the best, and of the k best tokens, that are candidates."""
  return tuple(
    float(np.mean(is_candidate[_best(exact, count)])) for count in (1, k)
  )


def _confidence_error(exact, weighed, is_candidate):
  """Mean distance from the exact gap; others weigh what the preview says."""
  mixed = np.where(is_candidate, exact, weighed)
  gap = _gap(np.where(is_candidate, exact, -np.inf), mixed)
  return float(np.mean(np.abs(gap - _gap(exact, exact))))


def _gap(offered, scores):
  """Gap of the two best of the offered, in a softmax over all scores."""
  first = np.sort(offered, axis=1)[:, -2:]
  shares = np.exp(first - scipy.special.logsumexp(scores, axis=1)[:, None])
  return shares[:, 1] - shares[:, 0]


def _largest_error(apply, columns, hidden, preview):
  """[states, vocab]: |h'| |w'| of state and column along what is left out."""
  rest = preview.directions[len(preview.loadings) :]
  if not len(rest):
    return 0.0
  along = apply(hidden, rest[None], method='logits_of_columns')
  norms = np.linalg.norm(np.asarray(columns) @ np.asarray(rest).T, axis=1)
  return np.linalg.norm(along, axis=1)[:, None] * norms


def states_of(
  generator: generation.TextGenerator, texts: Sequence[str], layer: int
) -> Float[Array, 'states embed']:
  """States above a layer, for every token of the full model's outputs.

  Args:
    generator: the model.
    texts: inputs, prefix included.
    layer: 1..L.
  """
  source = generator.encode(texts)
  tokens = generator.generate_tokens(generator.request(source)).tokens
  inputs = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))

  @jax.jit
  def teacher_forced(params):
    apply = functools.partial(generator.model.module.apply, {'params': params})
    encoded = apply(source, method='encode')
    return apply(encoded, source, inputs, tokens, method='decode_all_layers')

  return teacher_forced(generator.params)[layer - 1][tokens > 0]


def table(found: Sequence[Recall], k: int) -> str:
  """The counts as Markdown."""
  lines = [
    f'| rank | C | best token among C | {k} best among C | error of the'
    ' confidence | certified |',
    '|---:|---:|---:|---:|---:|---:|',
  ]
  lines += [
    f'| {x.rank} | {x.num_candidates} | {x.best:.1%} | {x.k_best:.1%}'
    f' | {x.confidence_error:.4f} | {x.certified:.1%} |'
    for x in found
  ]
  return '\n'.join(lines)


def main() -> None:
  """Prints the table for the shipped model or the one in a folder."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', help='folder of a model')
  parser.add_argument('--task', default='docstring_restoration')
  parser.add_argument('--split', default='validation')
  parser.add_argument('--examples', type=int, default=50)
  parser.add_argument('--layer', type=int, default=1)
  parser.add_argument('--ranks', type=int, nargs='+', default=[32, 64, 128])
  parser.add_argument('--candidates', type=int, nargs='+', default=[64, 256])
  parser.add_argument('--k', type=int, default=16)
  args = parser.parse_args()
  generator = generation.load(args.model)
  examples = corpus.load_corpus(args.task, args.split)[: args.examples]
  hidden = states_of(generator, [x.inputs for x in examples], args.layer)
  found = recalls(
    generator.model.config,
    generator.params,
    hidden,
    args.ranks,
    args.candidates,
    args.k,
  )
  print(f'Layer {args.layer}, {len(hidden)} tokens\n\n{table(found, args.k)}')


if __name__ == '__main__':
  main()
