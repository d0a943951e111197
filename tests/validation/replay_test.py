"""The replayed trace: by plain loops, by the model itself, by its schedules."""

import dataclasses

import numpy as np
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.calibration import risks
from calm_jax.early_exit.engine import schedule
from calm_jax.records import contracts, descriptions
from calm_jax.validation import replay, replay_schedules

N, T, L = 5, 6, 4
GRID = (1.0, 0.7, 0.4, 0.0)
EOS = 1


def make_dump(seed=0):
  """Random traces; outputs of several lengths, each ending in EOS or cut."""
  random = np.random.default_rng(seed)
  lengths = np.array([6, 4, 6, 1, 3])
  is_token = np.arange(T) < lengths[:, None]
  trace = random.integers(0, 6, (N, T, L)).astype(np.int32) + 2
  # Some layers would end the output early.
  trace[..., :-1][random.random((N, T, L - 1)) < 0.1] = EOS
  ends = np.arange(N)[lengths < T], lengths[lengths < T] - 1
  trace[*ends, -1] = EOS
  trace = np.where(is_token[..., None], trace, 0)
  confidences = random.random((N, T, L), np.float32)
  confidences[..., 0] = -1  # no exit there
  tokens = np.repeat(trace[:, None, :, -1], len(GRID), axis=1)
  used = np.where(tokens > 0, L, 0).astype(np.int8)
  manifest, _ = dumps.make_dump(
    thresholds=GRID,
    num_decoder_layers=L,
    max_decode_length=T,
    threshold_schedule=dumps.choice('DecayingThreshold', temperature=4.0),
  )
  return manifest, contracts.Dump(
    example_ids=np.array([f'{i}' for i in range(N)]),
    sources=np.array(['s'] * N),
    references=np.array(['r'] * N),
    predictions=np.array([[decode(row) for row in x] for x in tokens]),
    tokens=tokens,
    num_layers_used=used,
    confidences=np.zeros(tokens.shape, np.float32),
    trace_confidences=np.where(is_token[..., None], confidences, 0.0),
    trace_tokens=trace,
  )


def decode(row):
  return ' '.join(str(x) for x in row if x > EOS)


def by_hand(dump, threshold, in_force, exits, example):
  """One example's tokens and layers, as the sentences of the paper say."""
  tokens, layers = [], []
  for t in range(T):
    if dump.num_layers_used[example, 0, t] == 0:
      break
    layer = L
    for i in range(1, L):
      sure = dump.trace_confidences[example, t, i - 1] >= in_force[t]
      if threshold < 1 and i in exits and sure:
        layer = i
        break
    tokens.append(int(dump.trace_tokens[example, t, layer - 1]))
    layers.append(layer)
    if tokens[-1] == EOS:
      break
  return tokens, layers


@pytest.mark.parametrize(
  'exits',
  [replay.Exits(), replay.Exits(2, 2), replay.Exits(min_exit=3)],
)
@pytest.mark.parametrize(
  'kind', [replay_schedules.Constant(), replay_schedules.Decaying()]
)
def test_every_token_by_hand(kind, exits):
  manifest, dump = make_dump()
  replayed = replay.replay(manifest, dump, schedule=kind, exits=exits)
  assert replayed.decode_mode == contracts.REPLAYED
  left = set()
  for g, threshold in enumerate(GRID):
    in_force = kind(np.array([threshold]), T)[0]
    layers_of = schedule.ExitLayers(**dataclasses.asdict(exits)).layers(L)
    for example in range(N):
      tokens, layers = by_hand(dump, threshold, in_force, layers_of, example)
      got = replayed.tokens[example, g]
      assert got[got > 0].tolist() == tokens
      used = replayed.num_layers_used[example, g]
      assert used[used > 0].tolist() == layers
      left |= set(layers)
  assert len(left) > 1, 'some tokens were to leave early'


def test_threshold_1_is_the_full_model():
  manifest, dump = make_dump()
  # Confidences that saturate, and a schedule that is clipped at 1.
  sure = dataclasses.replace(
    dump, trace_confidences=np.ones_like(dump.trace_confidences)
  )
  for kind in (None, replay_schedules.Constant()):
    replayed = replay.replay(manifest, sure, schedule=kind)
    np.testing.assert_array_equal(replayed.tokens[:, 0], dump.tokens[:, 0])
    used = replayed.num_layers_used[:, 0]
    np.testing.assert_array_equal(used, dump.num_layers_used[:, 0])
    assert replayed.disagreement()[:, 0].tolist() == [0.0] * N
    assert replayed.mean_layers()[0] == L


@pytest.mark.parametrize(
  ('ours', 'theirs'),
  [
    (replay_schedules.Constant(), schedule.ConstantThreshold()),
    (replay_schedules.Decaying(4.0), schedule.DecayingThreshold(4.0)),
    (replay_schedules.Decaying(0.5), schedule.DecayingThreshold(0.5)),
    (replay_schedules.T5xDecaying(4.0), schedule.T5xDecayingThreshold(4.0)),
  ],
)
def test_schedules_equal_those_of_the_model(ours, theirs):
  thresholds = np.float32([1.0, 0.99, 0.5, 0.0])
  got = ours(thresholds, 20)
  assert got.shape == (4, 20) and got.dtype == np.float32
  for t in range(20):
    np.testing.assert_allclose(got[:, t], theirs(thresholds, t, 20), atol=1e-6)
  assert (got[0] == 1.0).all()
  described = descriptions.describe(theirs)
  assert replay_schedules.schedule_of(described) == ours


@pytest.mark.parametrize('kind', ['s', 'mine.Other', 'mine.DecayingThreshold'])
def test_a_schedule_that_nobody_here_knows(kind):
  manifest, dump = make_dump()
  other = dumps.replaced(manifest, threshold_schedule=dumps.choice(kind))
  with pytest.raises(errors.DataError, match='can be replayed'):
    replay.replay(other, dump)


def test_any_grid_in_any_order():
  manifest, dump = make_dump()
  whole = replay.replay(manifest, dump)
  other = replay.replay(manifest, dump, (0.0, 0.4, 0.33))
  np.testing.assert_array_equal(other.tokens[:, 0], whole.tokens[:, 3])
  np.testing.assert_array_equal(other.tokens[:, 1], whole.tokens[:, 2])
  assert other.thresholds == (0.0, 0.4, 0.33)


def test_disagreement_counts_tokens_of_the_full_output():
  full = np.array([[5, 6, 7, 1], [5, 1, 0, 0]])
  early = np.array(
    [
      [[5, 6, 7, 1], [5, 1, 0, 0], [5, 6, 8, 9]],
      [[5, 1, 0, 0], [6, 6, 6, 6], [1, 0, 0, 0]],
    ]
  )
  np.testing.assert_allclose(
    replay.token_disagreement(early, full),
    [[0, 0.75, 0.5], [0, 1.0, 1.0]],
  )


def test_gaps_compare_like_with_like():
  manifest, dump = make_dump()
  rows = replay.gaps(manifest, dump, name='dump')
  replayed = replay.replay(manifest, dump)
  assert [row.threshold for row in rows] == list(GRID)
  assert rows[0].loss_gap == rows[0].layers_gap == 0.0
  for g, row in enumerate(rows):
    # What was generated is here the full output at every threshold.
    assert row.generated_loss == 0.0 and row.generated_layers == L
    assert row.loss_gap == row.replayed_loss
    assert row.replayed_loss == replayed.disagreement()[:, g].mean()
    assert row.layers_gap == replayed.mean_layers()[g] - L < 0 or g == 0
  assert rows[-1].replayed_loss > 0.2


def test_gaps_of_texts():
  manifest, dump = make_dump()

  def exact(prediction, reference):
    return float(prediction == reference)

  rows = replay.gaps(
    manifest, dump, risks.TextualConsistency(exact), decode, 'dump'
  )
  replayed = replay.replay(manifest, dump).predictions(decode)
  for g, row in enumerate(rows):
    differs = replayed[:, g] != dump.predictions[:, 0]
    assert row.replayed_loss == differs.mean()
    assert row.loss == 'textual exact'
  with pytest.raises(errors.DataError, match='vocabulary must be the one'):
    replay.gaps(
      manifest, dump, risks.TextualConsistency(exact), lambda row: 'x', 'dump'
    )


def test_what_cannot_be_replayed():
  manifest, dump = make_dump()
  oracle = dumps.replaced(manifest, measure=dumps.choice('Oracle'))
  with pytest.raises(errors.DataError, match='cannot be replayed'):
    replay.replay(oracle, dump)
  for grid in ((1.1,), (-0.1,), (float('nan'),), ()):
    with pytest.raises(errors.ConfigError, match=r'in \[0, 1\]'):
      replay.replay(manifest, dump, grid)
  for wrong in ((0, 1, 0), (1, 0, 0), (1, 1, -1)):
    with pytest.raises(errors.ConfigError, match='at least'):
      replay.Exits(*wrong)
