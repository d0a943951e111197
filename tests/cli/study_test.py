"""`calm study` from a plan to tables and figures, on a tiny model."""

import argparse
import csv
import dataclasses
import math
import types

import pytest
from testing import dumps, tiny_text

from calm_jax.checkpoints import bundle
from calm_jax.cli import dump, loading, main, study
from calm_jax.data import task_examples
from calm_jax.dump import runner, writer

_PLAN = """
from __gin__ import dynamic_registration
from calm_jax.early_exit import confidence
from calm_jax.early_exit import top_k
from calm_jax.study import plan

plan.Plan.sweeps = {
    'softmax': @softmax/plan.Sweep(),
    'top-k 8': @k8/plan.Sweep(),
}
plan.Plan.recall_ks = (2, 8)
softmax/plan.Sweep.measure = @confidence.SoftmaxTopTwoGap()
k8/plan.Sweep.measure = @top_k.TopKPropagation()
top_k.TopKPropagation.k = 8
plan.Sweep.thresholds = (0.5,)
"""


@pytest.mark.usefixtures('short_corpus')
def test_study(tmp_path, capsys):
  generator = tiny_text.make_generator(max_decode_length=4)
  bundle.save_bundle(
    tmp_path / 'model',
    generator.params,
    generator.model.config,
    bundle.BundleInfo('docstring_restoration', {'inputs': 12, 'targets': 4}),
    generator.tokenizer.path,
  )
  (tmp_path / 'plan.gin').write_text(_PLAN)
  folder = tmp_path / 'study'
  command = [
    'study',
    f'--gin_file={tmp_path / "plan.gin"}',
    f'--model={tmp_path / "model"}',
    f'--output_dir={folder}',
    '--max_examples=4',
    '--timed_examples=1',
  ]
  assert main.main(command) == 0, capsys.readouterr().err
  with open(folder / 'trade_off.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  thresholds = [float(x['threshold']) for x in rows]
  thresholds = [math.inf if math.isnan(x) else x for x in thresholds]
  assert [(x['measure'], y) for x, y in zip(rows, thresholds, strict=True)] == [
    ('softmax', 1.0),
    ('softmax', 0.5),
    ('top-k 8', 1.0),
    ('top-k 8', 0.5),
    ('oracle, true cache', math.inf),
  ]
  *rows, bound = rows
  # It gives what the full model gives, from at most the layers of any measure.
  assert float(bound['mean_loss']) == 0
  assert bound['mean_metric'] == rows[0]['mean_metric']
  assert 1 <= float(bound['mean_layers']) <= 3
  assert bound['ms_per_token'] == 'nan'
  for row in rows:
    if float(row['threshold']) == 1.0:
      assert float(row['mean_layers']) == 3 and float(row['mean_loss']) == 0
    assert float(row['ms_per_token']) > 0
  with open(folder / 'recall.csv', encoding='utf-8') as file:
    recall = list(csv.DictReader(file))
  assert [(x['k'], x['layer']) for x in recall] == [
    (k, layer) for k in '28' for layer in '123'
  ]
  # At the last layer the full model's token is the best of all.
  assert [float(x['recall']) for x in recall if x['layer'] == '3'] == [1.0, 1.0]
  for name in ('trade_off', 'top_k', 'exits'):
    assert (folder / f'{name}.png').stat().st_size > 10_000


@pytest.mark.parametrize(
  ('count', 'changes', 'is_used'),
  [
    (20, {}, True),
    (19, {}, False),
    (20, {'digest': 'other texts'}, False),
    (20, {'examples': [None] * 30}, True),
    (99, {}, True),  # The split has no more.
    (99, {'examples': [None] * 30}, False),
  ],
)
def test_dumps_of_the_same_texts_are_used_again(
  count, changes, is_used, tmp_path, monkeypatch
):
  manifest, data = dumps.make_dump(20)
  writer.write_dump(tmp_path / 'dumps' / 'a_measure', manifest, [data])
  written = []
  monkeypatch.setattr(runner, 'config_digest', lambda _: manifest.config_digest)
  monkeypatch.setattr(
    dump, 'write_dump', lambda *_, **fields: written.append(fields)
  )
  found = task_examples.TaskExamples(
    types.SimpleNamespace(name=manifest.task), [None] * 20, manifest.data_digest
  )
  write_dump = study._dump_writer(
    loading.LoadedModel(None, manifest.model_digest),
    dataclasses.replace(found, **changes),
    argparse.Namespace(split=manifest.split, max_examples=count),
    tmp_path,
    'a measure',
    types.SimpleNamespace(thresholds=manifest.thresholds),
  )
  assert write_dump(None) == tmp_path / 'dumps' / 'a_measure'
  assert bool(written) != is_used
