"""Operations per token: by hand, by plain Python, and by XLA's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cost_table
from calm_jax import errors
from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  saturation,
  screening,
  top_k,
)
from calm_jax.early_exit.measures import softmax as softmax_measure
from calm_jax.evaluation import (
  confidence_cost,
  flops,
  measure_costs,
  network_sizes,
  skipped_cost,
)
from calm_jax.records import contracts, descriptions
from calm_jax.t5 import network

L, V = 4, 100
SIZES = network_sizes.NetworkSizes(
  emb_dim=16,
  num_heads=2,
  head_dim=5,
  mlp_dim=24,
  num_mlp_inputs=2,
  num_decoder_layers=L,
  vocab_size=V,
)
COSTS = {
  'SoftmaxTopTwoGap()': confidence_cost.WholeSoftmax(),
  'HiddenStateSaturation(rescale=False)': confidence_cost.Saturation(),
  'StaticExit()': confidence_cost.ChosenOnly(),
  'linear': confidence_cost.Classifier(),
  'mlp': confidence_cost.Classifier((7,)),
  'attention': confidence_cost.AttentionClassifier(width=6, hidden_dims=(3,)),
  'top-k': confidence_cost.TopK(k=10),
  'top-k falling': confidence_cost.TopK(k=(30, 20, 5), last_layer_from_k=True),
  'top-k late': confidence_cost.TopK(k=10, taken_at=2),
  'screened': confidence_cost.ScreenedTopK(k=10, rank=4, num_candidates=12),
}


def columns(name, layer):
  """Columns of the output embedding that a measurement takes, all layers."""
  last = layer == L
  match name:
    case 'SoftmaxTopTwoGap()':
      return V
    case 'top-k':
      return V if layer == 1 or last else 10
    case 'top-k falling':
      return {1: V, 2: 30, 3: 20, 4: 5}[layer]
    case 'top-k late':
      return V if layer <= 2 or last else 10
    case 'screened':
      # The state along all 16 directions; 4 of them for every token.
      first = 16 + 4 * V / 16 + 12
      return V if last else first if layer == 1 else 10
  return 0


def beside(name, layer, position):
  """Operations of a measurement that are no product with the embedding."""
  if layer == L:
    return 0
  match name:
    case 'HiddenStateSaturation(rescale=False)':
      return 0 if layer == 1 else 3 * 2 * 16
    case 'linear':
      return 2 * 16
    case 'mlp':
      return 2 * 16 * 7 + 2 * 7
    case 'attention':
      # Query, key, value and the state itself; scores and sums; head.
      projections = 4 * (2 * 16 * 6)
      return projections + 2 * (2 * position * 6) + 2 * 6 * 3 + 2 * 3
  return 0


def of_skipped(skipping, position, source):
  """Operations for a layer that the token of a position skipped."""
  key_value = 2 * (2 * 16 * 10)
  if skipping == 'TrueStates':
    self_attention = 4 * (2 * 16 * 10) + 2 * (2 * 10 * position)
    cross_attention = 2 * (2 * 16 * 10) + 2 * (2 * 10 * source)
    return self_attention + cross_attention + 3 * (2 * 16 * 24)
  return key_value


def counted(name, used, source_lengths, skipping='ProjectExitState'):
  """The same by loops over tokens, layers and multiplications."""
  total = dict.fromkeys([f.name for f in dataclasses.fields(contracts.Flops)])
  total = {key: 0 for key in total}
  num_tokens = 0
  for row, source in zip(used, source_lengths, strict=True):
    row = [int(x) for x in row if x]
    num_tokens += len(row)
    total['source_projection'] += max(row) * source * 2 * (2 * 16 * 10)
    for t, n in enumerate(row):
      for layer in range(1, n + 1):
        # 2 heads of 5: query, key, value, output; scores and sums of values.
        total['self_attention'] += 4 * (2 * 16 * 10) + 2 * (2 * 10 * (t + 1))
        total['cross_attention'] += 2 * (2 * 16 * 10) + 2 * (2 * 10 * source)
        total['feed_forward'] += 3 * (2 * 16 * 24)
        total['output_embedding'] += 2 * 16 * columns(name, layer)
        total['confidence'] += beside(name, layer, t + 1)
      if columns(name, 1) == 0:
        total['output_embedding'] += 2 * 16 * V
      for layer in range(n + 1, L + 1):
        if any(later >= layer for later in row[t + 1 :]):
          total['propagation'] += of_skipped(skipping, t + 1, source)
          if name == 'attention' and layer < L:
            # The classifier's own key and value of width 6.
            total['confidence'] += 2 * (2 * 16 * 6)
  return {key: value / num_tokens for key, value in total.items()}


def random_layers(seed=0, examples=6, positions=7):
  rng = np.random.default_rng(seed)
  used = rng.integers(1, L + 1, (examples, positions))
  lengths = rng.integers(1, positions + 1, examples)
  return np.where(np.arange(positions) < lengths[:, None], used, 0)


@pytest.mark.parametrize('name', COSTS)
def test_the_formula_is_the_hand_count(name):
  used, sources = random_layers(), np.array([3, 9, 4, 1, 5, 8])
  got = flops.flops_per_token(SIZES, used, sources, COSTS[name])
  assert got.to_json() == pytest.approx(counted(name, used, sources))
  assert got.total == pytest.approx(sum(counted(name, used, sources).values()))
  assert got.without_output_embedding == got.total - got.output_embedding


@pytest.mark.parametrize(
  ('kind', 'knobs'),
  [
    ('ProjectExitState', {}),
    ('FirstExitState', {}),
    ('TrueStates', {'per_row': (16, 4)}),
  ],
)
def test_skipped_layers_cost_what_their_choice_computes(kind, knobs):
  used, sources = random_layers(), np.array([3, 9, 4, 1, 5, 8])
  skipping = skipped_cost.cost_of(descriptions.Description(kind, knobs))
  got = flops.flops_per_token(
    SIZES, used, sources, COSTS['attention'], skipping=skipping
  )
  expected = counted('attention', used, sources, kind)
  assert got.to_json() == pytest.approx(expected)
  if kind == 'TrueStates':
    # Up to its deepest token, a sequence has multiplied every layer.
    deep = np.flip(np.maximum.accumulate(np.flip(used, 1), axis=1), 1)
    whole = flops.flops_per_token(SIZES, deep * (used > 0), sources)
    layers = [x.self_attention + x.cross_attention + x.feed_forward
              for x in (got, whole)]  # fmt: skip
    assert layers[0] + got.propagation == pytest.approx(layers[1])


def test_one_token_by_hand():
  """d 16, a 10, f 24, V 100; one layer of four, at position 1, 3 source."""
  got = flops.flops_per_token(
    SIZES, np.array([[1]]), np.array([3]), COSTS['SoftmaxTopTwoGap()']
  )
  assert got == contracts.Flops(
    self_attention=1280 + 40,
    cross_attention=640 + 120,
    source_projection=1920,
    feed_forward=2304,
    propagation=0,
    confidence=0,
    output_embedding=3200,
  )


def test_an_ungated_block_has_one_kernel_less():
  ungated = dataclasses.replace(SIZES, num_mlp_inputs=1)
  used, sources = np.full((1, 1), L), np.array([3])
  one, two = (
    flops.flops_per_token(sizes, used, sources) for sizes in (ungated, SIZES)
  )
  assert two.feed_forward - one.feed_forward == L * 2 * 16 * 24
  assert two.self_attention == one.self_attention


def test_exits_that_are_not_everywhere():
  """Layers 2 and 4: one measurement for a token that runs through."""
  cost, used = COSTS['SoftmaxTopTwoGap()'], np.array([[2, 4, 2]])
  got = flops.flops_per_token(SIZES, used, np.array([3]), cost, (2, 4))
  assert got.output_embedding * 3 == 2 * 16 * V * (1 + 2 + 1)
  got = flops.flops_per_token(
    SIZES, used, np.array([3]), COSTS['linear'], (2, 4)
  )
  assert got.confidence * 3 == 2 * 16 * 3
  with pytest.raises(errors.DataError, match=r'\[2, 4\] only, but .* layer 3'):
    flops.flops_per_token(SIZES, np.array([[3]]), np.array([3]), cost, (2, 4))


def test_calm_s_gap_between_layers_and_operations():
  """8 layers of CALM's size: the whole softmax costs more than it saves."""
  sizes = cost_table.SIZES
  source = np.array([512])
  full = flops.flops_per_token(sizes, np.full((1, 82), 8), source)
  used = np.array([[5, 6, 6, 6] * 20])

  def reduction(cost):
    return full.total / flops.flops_per_token(sizes, used, source, cost).total

  softmax = reduction(COSTS['SoftmaxTopTwoGap()'])
  propagated = reduction(confidence_cost.TopK(k=64))
  assert softmax < 0.6 and propagated > 2 * softmax
  # CALM Table 2, SQuAD, saturation at 2.00 layers: 3.65.
  short = np.full((1, 5), 8)
  full = flops.flops_per_token(sizes, short, source)
  early = flops.flops_per_token(
    sizes, short // 4, source, COSTS['HiddenStateSaturation(rescale=False)']
  )
  assert full.total / early.total == pytest.approx(3.52, abs=0.01)


def test_xla_counts_a_layer_as_the_formula_does():
  """One decoder layer for one token, with wide kernels: within 3%."""
  config = network.T5Config(
    vocab_size=64,
    emb_dim=96,
    num_heads=4,
    head_dim=24,
    mlp_dim=256,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  position, source = 40, 60
  layer = network.DecoderLayer(config)
  shape = jax.ShapeDtypeStruct
  heads = (1, 4)
  keys = shape((*heads, 24, position), jnp.float32)
  values = shape((*heads, position, 24), jnp.float32)
  cross_keys = shape((*heads, 24, source), jnp.float32)
  cross_values = shape((*heads, source, 24), jnp.float32)
  hidden = shape((1, 96), jnp.float32)
  biases = (
    (shape(heads + (position,), jnp.float32),),
    (shape((1, 1, source), jnp.float32),),
  )
  params = jax.eval_shape(
    lambda: layer.init(
      jax.random.key(0),
      jnp.zeros((1, 2, 96)),
      jnp.zeros((1, 2, 96)),
      None,
      None,
      enable_dropout=False,
    )
  )

  def run(params, hidden, keys, values, bias, cross_keys, cross_values, cross):
    query, *new = layer.apply(params, hidden, method='project_token')
    out = layer.apply(
      params, hidden, query, keys, values, bias, cross_keys, cross_values,
      cross, method='block',
    )  # fmt: skip
    return new, out

  compiled = (
    jax.jit(run)
    .lower(
      params,
      hidden,
      keys,
      values,
      *biases[0],
      cross_keys,
      cross_values,
      *biases[1],
    )  # fmt: skip
    .compile()
  )
  counted_by_xla = compiled.cost_analysis()['flops']
  sizes = dataclasses.replace(
    SIZES,
    emb_dim=96,
    num_heads=4,
    head_dim=24,
    mlp_dim=256,
    num_decoder_layers=1,
  )
  # Zeros before the last position: one token, as if at position 40.
  used = np.ones((1, position), np.int64)
  both = [
    flops.flops_per_token(sizes, used[:, :t], np.array([source]))
    for t in (position, position - 1)
  ]
  ours = sum(
    sign * getattr(count, name) * t
    for sign, count, t in zip(
      (1, -1), both, (position, position - 1), strict=True
    )
    for name in ('self_attention', 'cross_attention', 'feed_forward')
  )
  assert counted_by_xla == pytest.approx(ours, rel=0.03)
  assert counted_by_xla > ours, 'norms and softmax come on top'


def test_the_description_gives_the_cost():
  trained = classifier_confidence.ClassifierConfidence
  for measure, cost in (
    (trained(), confidence_cost.Classifier()),
    (trained(classifiers.Mlp(hidden_dim=7)), confidence_cost.Classifier((7,))),
    (
      trained(classifiers.Attention(width=12, residual=False)),
      confidence_cost.AttentionClassifier(width=12, residual=False),
    ),
    (softmax_measure.SoftmaxTopTwoGap(), confidence_cost.WholeSoftmax()),
    (
      saturation.HiddenStateSaturation(rescale=True),
      confidence_cost.Saturation(),
    ),
    (
      top_k.TopKPropagation(k=(9, 5), taken_at=2, last_layer_from_k=True),
      confidence_cost.TopK((9, 5), 2, True),
    ),
    (
      screening.ScreenedTopK(k=9, rank=4, num_candidates=12),
      confidence_cost.ScreenedTopK((9,), rank=4, num_candidates=12),
    ),
  ):
    assert measure_costs.cost_of(descriptions.describe(measure)) == cost


def test_a_choice_of_the_user_has_no_cost():
  mine = descriptions.Description('mine.Mine', {'width': 3})
  assert measure_costs.cost_of(mine) is None
  measure = descriptions.Description(
    'ClassifierConfidence', {'classifier': mine}
  )
  assert measure_costs.cost_of(measure) is None


def test_an_attention_classifier_needs_states_of_skipped_exits():
  """A token that leaves at 2 instead of 1: one measurement more, and one key
  and value less that a later token would have needed at exit 2."""
  cost = COSTS['attention']
  early, late = (
    flops.flops_per_token(SIZES, np.array([row]), np.array([3]), cost)
    for row in ([1, 2, 4], [2, 2, 4])
  )
  key_value = 2 * (2 * 16 * 6)
  assert (late.confidence - early.confidence) * 3 == (
    beside('attention', 2, 1) - key_value
  )


def test_layers_without_an_exit_are_nothing_to_a_classifier():
  """Exits 2 and 4 only: all three tokens are measured at 2, none skips it."""
  got = flops.flops_per_token(
    SIZES, np.array([[2, 2, 4]]), np.array([3]), COSTS['attention'], (2, 4)
  )
  assert got.confidence * 3 == sum(
    beside('attention', 2, position) for position in (1, 2, 3)
  )


def test_refuses_what_cannot_be_counted():
  with pytest.raises(errors.DataError, match='at least one token'):
    flops.flops_per_token(SIZES, np.zeros((1, 3)), np.array([1]))
  with pytest.raises(errors.DataError, match='emb_dim must be at least 1'):
    dataclasses.replace(SIZES, emb_dim=0)


def test_sizes_from_a_description():
  fields = dataclasses.asdict(SIZES)
  activations = ('gelu', 'linear')[: fields.pop('num_mlp_inputs')]

  def sizes_of(**knobs):
    network = descriptions.Description('mine.Network', knobs)
    return network_sizes.NetworkSizes.of(network)

  fields |= {'mlp_activations': activations, 'num_encoder_layers': 2}
  assert sizes_of(**fields) == SIZES
  assert sizes_of() is None
  del fields['mlp_dim']
  assert sizes_of(**fields) is None
