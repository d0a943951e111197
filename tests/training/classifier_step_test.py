"""Training stage 2: what moves, what does not, and what is measured."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import copying

from calm_jax import errors
from calm_jax.checkpoints import load, param_trees
from calm_jax.early_exit.measures import classifiers
from calm_jax.training import (
  classifier_metrics,
  classifier_step,
  loop,
  optimizers,
  step,
  writers,
)

MODEL = copying.copying_model(dropout_rate=0.1)
OPTIMIZER = optimizers.adamw(1e-2)
OBJECTIVE = classifier_step.ClassifierObjective(
  (classifiers.Linear(), classifiers.Attention(width=8, num_heads=2)),
  balanced=True,
  skip_prob=0.3,
)
BATCHES = copying.CopyingBatches()
EVALUATE = OBJECTIVE.make_evaluator(MODEL.module)


@pytest.fixture(autouse=True)
def no_events(monkeypatch):
  monkeypatch.setattr(writers, 'summary_writer', lambda directory: None)


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
  """A finished stage 1."""
  folder = tmp_path_factory.mktemp('stage1')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, 'summary_writer', lambda directory: None)
    loop.train(
      MODEL, BATCHES, optimizers.adafactor(3e-2), folder, 30,
      objective=step.LayerWeightedObjective(),
    )  # fmt: skip
  return folder


def _train(folder, backbone, steps, objective=OBJECTIVE):
  return loop.train(
    MODEL,
    BATCHES,
    OPTIMIZER,
    folder,
    steps,
    objective=objective,
    eval_batches=[BATCHES.batch_at(1000)],
    periods=loop.Periods(log=10, evaluate=20, checkpoint=10),
    initial_checkpoint_path=backbone,
  )


@pytest.fixture(scope='module')
def trained(backbone, tmp_path_factory):
  folder = tmp_path_factory.mktemp('stage2')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, 'summary_writer', lambda directory: None)
    return folder, _train(folder, backbone, 40)


def test_the_network_stays_the_same_bit_by_bit(backbone, trained):
  before = param_trees.flatten(
    load.load_model(backbone, MODEL.module.config).params
  )
  after = param_trees.flatten(trained[1].params)
  for name, array in before.items():
    np.testing.assert_array_equal(np.asarray(after[name]), array)
  # The optimizer remembers nothing of it either.
  sizes = [x.size for x in jax.tree.leaves(trained[1].opt_state)]
  assert sum(sizes) < 3 * sum(
    x.size for x in jax.tree.leaves(trained[1].params[classifiers.PARAMS])
  )


def test_classifiers_learn(trained):
  lines = [
    json.loads(line)
    for line in (trained[0] / 'train' / 'metrics.jsonl').read_text().split('\n')
    if line
  ]
  assert [line['step'] for line in lines] == [10, 20, 30, 40]
  for name in ('linear', 'attention'):
    losses = [line[f'loss/{name}'] for line in lines]
    assert losses[-1] < 0.97 * losses[0]


def test_every_layer_is_evaluated(trained):
  path = trained[0] / 'training_eval' / 'metrics.jsonl'
  line = json.loads(path.read_text().splitlines()[-1])
  for metric in ('accuracy', 'precision', 'recall', 'f1', 'auroc', 'ece'):
    for name in ('linear', 'attention'):
      for layer in (1, 2):
        assert 0 <= line[f'{metric}/{name}/layer_{layer}'] <= 1


def test_a_resumed_run_equals_an_uninterrupted_one(backbone, trained, tmp_path):
  _train(tmp_path, backbone, 20)
  resumed = _train(tmp_path, backbone, 40)
  jax.tree.map(np.testing.assert_array_equal, resumed.params, trained[1].params)


def test_stage_2_needs_a_model(tmp_path):
  with pytest.raises(errors.ConfigError, match='INITIAL_CHECKPOINT_PATH'):
    _train(tmp_path, None, 5)


@pytest.mark.parametrize(
  'options, said',
  [
    ({'classifiers': ()}, 'different names'),
    ({'classifiers': (classifiers.Linear(),) * 2}, 'different names'),
    ({'skip_prob': 1.5}, 'skip_prob'),
    ({'skip_prob': 0.5, 'geometric': True}, 'geometric'),
  ],
)
def test_impossible_objectives_are_refused(options, said):
  with pytest.raises(errors.ConfigError, match=said):
    classifier_step.ClassifierObjective(**options)


def test_labels_are_the_teacher_forced_agreement(trained):
  params, batch = trained[1].params, BATCHES.batch_at(7)
  _, labels, weights = classifier_step._observe(MODEL.module, params, batch)
  apply = functools.partial(MODEL.module.apply, {'params': params})
  encoded = apply(batch['encoder_input_tokens'], method='encode')
  states = apply(
    encoded,
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    method='decode_all_layers',
  )
  best = np.argmax(apply(states, method='logits_from_hidden'), axis=-1)
  np.testing.assert_array_equal(labels, best[:2] == best[2])
  np.testing.assert_array_equal(weights, batch['decoder_target_tokens'] > 0)


def test_padding_changes_neither_losses_nor_metrics(trained):
  params, batch = trained[1].params, BATCHES.batch_at(7)
  padded = {k: np.pad(v, ((0, 3), (0, 2))) for k, v in batch.items()}
  objective = classifier_step.ClassifierObjective(OBJECTIVE.classifiers)

  def losses(batch):
    observed = classifier_step._observe(MODEL.module, params, batch)
    return objective._losses(params[classifiers.PARAMS], *observed, None)

  for name, loss in losses(batch).items():
    np.testing.assert_allclose(losses(padded)[name], loss, rtol=1e-5)
  expected = EVALUATE(params, [batch])
  assert expected
  for name, value in EVALUATE(params, [padded]).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_undefined_metrics_keep_their_place(trained, monkeypatch):
  areas = iter([np.nan, 0.5, 0.25, 0.75])
  monkeypatch.setattr(classifier_metrics, 'auroc', lambda *_: next(areas))
  found = EVALUATE(trained[1].params, [BATCHES.batch_at(7)])
  assert np.isnan(found['auroc/linear/layer_1'])
  lines = OBJECTIVE.evaluation_lines(found)
  assert 'auroc of linear, layers 1 on: nan 0.500' in lines


def test_skipped_positions_show_the_state_of_their_exit():
  hidden = jnp.arange(4.0)[:, None, None, None] + jnp.zeros((4, 50, 40, 1))
  states, reached = classifier_step.skipped_states(
    hidden, jax.random.key(0), 0.75
  )
  levels = np.asarray(states[..., 0])  # the layer that each state came from
  exits = levels[-1]
  np.testing.assert_array_equal(
    levels, np.minimum(np.arange(4)[:, None, None], exits)
  )
  np.testing.assert_array_equal(reached, np.arange(3)[:, None, None] <= exits)
  shares = [(exits == layer).mean() for layer in range(4)]
  np.testing.assert_allclose(shares, 0.25, atol=0.04)


def test_metrics_equal_brute_force():
  rng = np.random.default_rng(3)
  probabilities = rng.integers(0, 11, 60) / 10  # with ties
  labels = rng.random(60) < 0.3 + 0.5 * probabilities
  found = classifier_metrics.binary_metrics(probabilities, labels)
  pairs = [
    (a > b) + 0.5 * (a == b)
    for a in probabilities[labels]
    for b in probabilities[~labels]
  ]
  np.testing.assert_allclose(found['auroc'], np.mean(pairs))
  stay = [p < 0.5 for p in probabilities]
  hits = sum(s and not a for s, a in zip(stay, labels, strict=True))
  precision, recall = hits / sum(stay), hits / sum(~labels)
  np.testing.assert_allclose(found['precision'], precision)
  np.testing.assert_allclose(found['recall'], recall)
  np.testing.assert_allclose(
    found['f1'], 2 * precision * recall / (precision + recall)
  )
  gap = 0.0
  for bin_number in range(15):
    inside = [
      i for i, p in enumerate(probabilities)
      if min(int(p * 15), 14) == bin_number
    ]  # fmt: skip
    if inside:
      difference = probabilities[inside].mean() - labels[inside].mean()
      gap += len(inside) / 60 * abs(difference)
  np.testing.assert_allclose(found['ece'], gap)


def test_auroc_of_one_class_is_undefined():
  assert np.isnan(classifier_metrics.auroc(np.ones(3), np.ones(3, bool)))
