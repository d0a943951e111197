"""The benchmark on a tiny model: exits, arithmetic of rows, written files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cases, decode, outputs, programs, rows, serve, systems
from calm_jax.evaluation import network_sizes
from calm_jax.records import descriptions

LAYERS = 3
SIZES = network_sizes.NetworkSizes(
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
  num_mlp_inputs=2,
  num_decoder_layers=LAYERS,
  vocab_size=300,
)


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """What one command writes, its measures being two."""
  folder = tmp_path_factory.mktemp('benchmark') / 'out'
  output = folder / 'decode_v1.2'
  arguments = '--models tiny --batches 2 --systems calm --measures top_k_16'
  arguments += ' --tokens 6 --source 9 --repeats 3 --row_seconds 0'
  arguments += ' --megabytes 8 --layers 1 3 8'
  decode.main([*arguments.split(), f'--output={output}'])
  assert sorted(path.name for path in folder.iterdir()) == [
    f'decode_v1.2.{ending}' for ending in ('json', 'md', 'png')
  ]
  assert Path(f'{output}.png').read_bytes().startswith(b'\x89PNG')
  table = Path(f'{output}.md').read_text()
  found = json.loads(Path(f'{output}.json').read_text())
  assert all(f'| {row["system"]} |' in table for row in found['rows'])
  return found


def test_every_measure_fits_the_shipped_model(tmp_path):
  case = cases.write('demo', tmp_path, source_length=512, num_rows=2)
  assert case.source_length == 64
  assert np.load(tmp_path / 'inputs.npy').shape == (2, 64)


def test_tokens_leave_where_they_should(report):
  found = {row['system']: row['mean_layers'] for row in report['rows']}
  mixed = programs.mixed_layers(LAYERS)
  expected = np.mean([mixed[:6], mixed[7:13]])
  assert found == {
    'full model': 3,
    'no measure: at layer 1': 1,
    'no measure: mixed layers': pytest.approx(expected),
    'top-k, K = 16: never leaves': 3,
    'top-k, K = 16: at layer 1': 1,
    'top-k, K = 16: mixed layers': pytest.approx(expected),
  }


def test_a_measure_that_lets_none_leave_changes_no_token(report):
  same = [row['same_tokens'] for row in report['rows'] if row['exit'] == LAYERS]
  assert same == [1.0, 1.0]


def test_the_report_is_complete(report):
  assert report['versions']['jax'] and report['machine']
  assert report['read_bandwidth']['best_gb_per_second'] > 0
  (sources,) = report['sources']
  times = sources['processes']['calm_jax']
  assert times['source_ms'] > 0 and times['encoder_ms'] > 0
  errors = report['cost_model']['relative_errors']
  assert (errors['fitted']['rows'], errors['held_out']['rows']) == (4, 2)
  for row in report['rows']:
    assert row['repeats'] == 3
    assert row['predicted_ms'] > 0 and row['prepare_seconds'] > 0
    low, high = row['quartiles']
    assert 0 < low <= row['ms_per_token'] <= high


def answer(seconds, tokens, **fields):
  return {'seconds': seconds, 'tokens': tokens, **fields}


def made_up_runs():
  """Our full model and a peer: 4 tokens, the peer with its source."""
  full = systems.System(systems.CALM, 'none', LAYERS)
  peer = systems.System('CTranslate2 int8', '', LAYERS)
  ours = [[7, 8, 1, 9]]
  return rows.Runs(
    case=cases.Case('tiny', None, SIZES, 10),
    batch=1,
    new_tokens=4,
    measures={'none': descriptions.Description('StaticExit', {})},
    prepared={full: 2.0, peer: 1.0},
    decoded={
      full: [
        answer(s, ours, includes_source=False, layers=[0, 0, 4])
        for s in (0.4, 0.8, 0.6)
      ],
      peer: [
        answer(s, [[7, 5, 6, 9]], includes_source=True) for s in (1.3, 1.6)
      ],
    },
    sources={
      systems.CALM: [{'seconds': 0.5, 'encoder_seconds': 0.4, 'new_tokens': 0}],
      'CTranslate2 int8': [
        {'seconds': s, 'encoder_seconds': None, 'new_tokens': 1}
        for s in (1.0, 1.0)
      ],
    },
  )


def test_rows_by_hand():
  """A peer's first token goes with its source: 3 tokens in 0.3 and 0.6 s."""
  full, peer = rows.rows_of(made_up_runs(), bytes_per_second=1e6)
  assert full['ms_per_token'] == pytest.approx(150)
  assert full['quartiles'] == pytest.approx([125, 175])
  assert peer['ms_per_token'] == pytest.approx(150)
  assert peer['quartiles'] == pytest.approx([125, 175])
  # Two tokens before EOS, of which one is the same.
  assert (full['same_tokens'], peer['same_tokens']) == (1.0, 0.5)
  numbers = 3 * (6 * 16 * 16 + 3 * 16 * 32) + 16 * 300
  cached = 3 * 2 * 16 * (10 + 2.5) * 4
  assert full['roofline_ms'] == pytest.approx((4 * numbers + cached) / 1e3)
  assert peer['roofline_ms'] == pytest.approx((numbers + cached) / 1e3)
  assert full['of_roofline'] == pytest.approx(full['roofline_ms'] / 150)


def test_sources_by_hand():
  """The token that a peer made meanwhile is taken off."""
  found = rows.sources_of(made_up_runs())
  assert found[systems.CALM] == {
    'source_ms': pytest.approx(500),
    'encoder_ms': pytest.approx(400),
  }
  assert found['CTranslate2 int8'] == {
    'source_ms': pytest.approx(850),
    'encoder_ms': None,
  }


def test_rows_of_a_process():
  first = {'none': 1, 'saturation': 2}
  found = systems.of_process(systems.CALM, 8, list(first), [8, 1, 2, 12], first)
  assert [x.name(8) for x in found] == [
    'full model',
    'no measure: at layer 1',
    'no measure: at layer 2',
    'no measure: mixed layers',
    'hidden-state saturation: never leaves',
    'hidden-state saturation: at layer 2',
    'hidden-state saturation: mixed layers',
  ]
  (peer,) = systems.of_process('transformers float32', 8, [], [1], {})
  assert peer.name(8) == 'transformers float32'


def test_every_measure_has_a_look_a_label_and_a_cost():
  from calm_jax.evaluation import measure_costs

  for key, measure in programs.MEASURES.items():
    assert key in outputs._LOOKS
    assert systems.label(key) != key
    described = descriptions.describe(measure)
    assert measure_costs.cost_of(described) is not None
  assert systems.MIXED == programs.MIXED


@pytest.mark.parametrize('has_ended', [False, True])
def test_a_process_that_cannot_start_says_why(has_ended):
  process = serve.Process(sys.executable, 'benchmarks.no_such_module')
  if has_ended:  # Before anybody asks.
    process._process.wait()
  with pytest.raises(serve.Unavailable, match='no_such_module'):
    process.ask('open')
  process.close()


def test_no_system_at_all_is_told(tmp_path):
  arguments = '--models tiny --systems ctranslate --megabytes 1 --threads 1'
  with pytest.raises(SystemExit, match='No system is left.*CTranslate2 int8'):
    decode.main([*arguments.split(), f'--output={tmp_path}/none'])
  assert not list(tmp_path.iterdir())
