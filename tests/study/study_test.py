"""A whole study on a tiny model, and its parts against plain counts."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import dumps, tiny_t5

from benchmarks import cost_table
from calm_jax import errors
from calm_jax.early_exit.measures import softmax
from calm_jax.evaluation import trade_off
from calm_jax.study import plan, recall, run

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'measures.md'


def test_ranks_equal_counting():
  model, params = tiny_t5.tiny_model(softmax.SoftmaxTopTwoGap())
  sources = tiny_t5.sources(3)
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, tiny_t5.VOCAB_SIZE, (3, 5)).astype(np.int32)
  tokens[1, 3:] = 0
  ranks = recall.token_ranks(model.module, params, sources, tokens)
  assert ranks.shape == (4, 3, 5)
  apply = lambda *args, method: model.module.apply(  # noqa: E731
    {'params': params}, *args, method=method
  )
  inputs = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  states = apply(
    apply(sources, method='encode'), sources, inputs, tokens,
    method='decode_all_layers',
  )  # fmt: skip
  logits = np.asarray(apply(states, method='logits_from_hidden'))
  for layer, row, position in np.ndindex(ranks.shape):
    token = tokens[row, position]
    order = np.argsort(-logits[layer, row, position], kind='stable')
    expected = list(order).index(token) if token else -1
    assert ranks[layer, row, position] == expected


def test_recall_is_a_share_of_tokens():
  ranks = np.array([[[0, 3, -1]], [[0, 1, -1]]])
  assert trade_off.recall_at(ranks, 2).tolist() == [0.5, 1.0]


def test_timed_texts_are_chosen_by_their_hashes():
  _, dump = dumps.make_dump(5)
  dump = dataclasses.replace(
    dump,
    example_ids=np.array(['b', 'e', 'a', 'd', 'c']),
    sources=np.array(['2', '5', '1', '4', '3']),
  )
  assert run.random_sources(dump, 3) == ['1', '2', '3']


def test_layers_by_position_by_hand():
  means, counts = trade_off.layers_by_position(
    np.array([[1, 4, 0], [3, 0, 0]], np.int8)
  )
  assert means[:2].tolist() == [2.0, 4.0] and np.isnan(means[2])
  assert counts.tolist() == [2, 1, 0]


def test_lowest_threshold_is_the_last_before_the_first_failure():
  def rows(*losses):
    row = trade_off.TradeOff('m', 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1)
    return [dataclasses.replace(row, mean_loss=x) for x in losses]

  assert trade_off.lowest_within(rows(0.0, 0.02, 0.3, 0.01), 0.05) == 1
  assert trade_off.lowest_within(rows(0.0, 0.02), 0.05) == 1
  assert trade_off.lowest_within(rows(0.0, 0.9), 0.05) == 0


@pytest.mark.parametrize(
  'options', [{'sweeps': {}}, {'sweeps': {'a': 1}, 'loss_limit': 1.5}]
)
def test_impossible_plans_are_refused(options):
  with pytest.raises(errors.ConfigError):
    plan.Plan(**options)


def test_the_table_in_the_docs_is_the_one_that_the_command_prints():
  found = re.search(
    '<!-- cost_table -->\n(.*?)\n<!-- end -->', DOCS.read_text(), re.DOTALL
  )
  assert found.group(1) == cost_table.table()


def test_the_measure_in_the_docs_works():
  code = re.search('```python\n(.*?)```', DOCS.read_text(), re.DOTALL).group(1)
  names = {'__name__': 'of_a_user'}
  exec(code, names)
  model, params = tiny_t5.tiny_model(names['SecondLayerOn']())
  result = jax.jit(
    lambda params: tiny_t5.generate(
      model, params, tiny_t5.sources(2), jnp.full(2, 0.01), max_decode_length=4
    )
  )(params)
  used = np.asarray(result.num_layers_used)
  assert used[used > 0].min() == 2
