"""`calm study` from a plan to tables and figures, on a tiny model."""

import csv
import math

import pytest
from testing import tiny_text

from calm_jax.checkpoints import bundle
from calm_jax.cli import main

_PLAN = """
from __gin__ import dynamic_registration
from calm_jax.early_exit.measures import softmax
from calm_jax.early_exit.measures import top_k
from calm_jax.study import plan

plan.Plan.sweeps = {
    'softmax': @softmax/plan.Sweep(),
    'top-k 8': @k8/plan.Sweep(),
}
plan.Plan.recall_ks = (2, 8)
softmax/plan.Sweep.measure = @softmax.SoftmaxTopTwoGap()
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
  # Again: dumps are used where they are of the same texts and undamaged.
  made = shards_of(folder)
  rerun(command, capsys, made_again=0)
  assert shards_of(folder) == made
  softmax, _ = made
  softmax.write_bytes(softmax.read_bytes()[:-1])
  rerun(command, capsys, made_again=1)
  again = shards_of(folder)
  assert again[softmax][0] != made[softmax][0], 'written again'
  assert {x: y[1] for x, y in again.items()} == {
    x: y[1] for x, y in made.items()
  }
  assert [again[x] for x in again][1:] == [made[x] for x in made][1:]
  rerun([*command, '--max_examples=3'], capsys, made_again=2)


def rerun(command, capsys, made_again):
  capsys.readouterr()
  assert main.main(command) == 0
  assert capsys.readouterr().err.count('Made again: ') == made_again


def shards_of(folder):
  """Path -> (time, content) of the two measures' only shards."""
  found = sorted((folder / 'dumps').glob('*/shard-*.npz'))
  assert [x.parent.name for x in found] == ['softmax', 'top-k_8']
  return {x: (x.stat().st_mtime_ns, x.read_bytes()) for x in found}
