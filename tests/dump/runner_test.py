"""From a model to a dump and back, against one-by-one generation."""

import dataclasses

import numpy as np
import pytest
from testing import tiny_text

from calm_jax import errors
from calm_jax.cli import loading
from calm_jax.data import corpus
from calm_jax.decode import lengths
from calm_jax.dump import reader, runner
from calm_jax.evaluation import network_sizes
from calm_jax.validation import replay

GRID = (1.0, 0.02, 0.0)


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator()


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
  """Two examples of the grid to a batch, so that there are several batches."""
  monkeypatch.setattr(runner, 'ROWS', 6)


def _examples(count):
  return [
    corpus.Example(f'id{i}', 'restore: ' + 'word ' * (i + 1), f'Word {i}.')
    for i in range(count)
  ]


def _header(generator, thresholds=GRID):
  return runner.header(
    generator,
    task='docstring_restoration',
    split='calibration',
    metric='chrf',
    thresholds=thresholds,
    params_digest='m',
    data_digest='d',
    command='calm dump',
  )


def test_dump_equals_generating_one_by_one(generator, tmp_path):
  examples = _examples(5)
  runner.run(
    generator,
    examples,
    _header(generator),
    tmp_path / 'dump',
    examples_per_shard=2,
  )
  manifest, dump = reader.read_dump(tmp_path / 'dump')
  assert manifest.num_examples == 5 and len(manifest.shards) == 3
  assert manifest.thresholds == GRID
  order = [dump.example_ids.tolist().index(x.example_id) for x in examples]
  for example, row in zip(examples, order, strict=True):
    assert dump.sources[row] == example.inputs
    assert dump.references[row] == example.targets
    for column, threshold in enumerate(GRID):
      (alone,) = generator.generate([example.inputs], threshold=threshold)
      assert dump.predictions[row, column] == alone.text
      used = dump.num_layers_used[row, column]
      shown = dump.tokens[row, column] > 1
      assert tuple(used[shown].tolist()) == alone.num_layers_used
      np.testing.assert_allclose(
        dump.confidences[row, column][shown], alone.confidences, atol=1e-5
      )


def test_trace_follows_the_full_model(generator, tmp_path):
  runner.run(generator, _examples(3), _header(generator), tmp_path / 'dump')
  _, dump = reader.read_dump(tmp_path / 'dump')
  is_token = dump.num_layers_used[:, 0] > 0
  last = dump.trace_tokens[:, :, -1]
  np.testing.assert_array_equal(last[is_token], dump.tokens[:, 0][is_token])
  np.testing.assert_array_equal(
    dump.trace_confidences[:, :, -1][is_token],
    dump.confidences[:, 0][is_token],
  )


def test_a_replay_is_exact_where_no_token_came_before(generator, tmp_path):
  """The first token of each output: the same state, so the same exit."""
  runner.run(generator, _examples(5), _header(generator), tmp_path / 'dump')
  manifest, dump = reader.read_dump(tmp_path / 'dump')
  replayed = replay.replay(manifest, dump)
  for name in ('tokens', 'num_layers_used'):
    np.testing.assert_array_equal(
      getattr(replayed, name)[..., 0], getattr(dump, name)[..., 0]
    )
  used = set(dump.num_layers_used[..., 0].ravel().tolist())
  assert len(used) > 1, 'some first tokens were to leave early'


def test_same_data_in_any_order_give_the_same_bytes(generator, tmp_path):
  examples = _examples(4)
  for name, order in (('a', examples), ('b', examples[::-1])):
    runner.run(generator, order, _header(generator), tmp_path / name)
  shards = [reader.read_manifest(tmp_path / x).shards for x in 'ab']
  assert shards[0] == shards[1]


class _Interrupted:
  """A generator that is interrupted after some batches."""

  def __init__(self, generator, batches):
    self._generator, self._left = generator, batches

  def __getattr__(self, name):
    return getattr(self._generator, name)

  def generate_tokens(self, *args, **kwargs):
    if not self._left:
      raise KeyboardInterrupt
    self._left -= 1
    return self._generator.generate_tokens(*args, **kwargs)


class _Complete(_Interrupted):
  """A generator that nothing is asked of but what it is."""

  def __init__(self, generator):
    super().__init__(generator, 0)

  def encode(self, texts):
    raise AssertionError('A complete dump needs no texts.')


def _content(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def _stop_below(threshold):
  return runner.Stopping(
    lambda manifest, dump: (
      'enough' if manifest.thresholds[-1] <= threshold else ''
    ),
    f'below {threshold}',
    per_pass=2,
  )


@pytest.mark.parametrize('stopping', [None, _stop_below(0.0), _stop_below(0.3)])
def test_an_interruption_changes_no_byte(stopping, generator, tmp_path):
  grid = (1.0, 0.5, 0.3, 0.02, 0.0)

  def run(generator, name):
    return runner.run(
      generator,
      _examples(5),
      _header(generator, grid),
      tmp_path / name,
      examples_per_shard=2,
      stopping=stopping,
    )

  manifest = run(generator, 'once').manifest
  assert [x.num_examples for x in manifest.shards] == [2, 2, 1]
  for batches in range(3):
    with pytest.raises(KeyboardInterrupt):
      run(_Interrupted(generator, batches), 'often')
  assert run(generator, 'often') == runner.Outcome(manifest, is_new=True)
  before = _content(tmp_path / 'once')
  assert _content(tmp_path / 'often') == before
  # Complete: neither is any text read, nor does the model run.
  assert run(_Complete(generator), 'often') == runner.Outcome(manifest, False)
  assert _content(tmp_path / 'often') == before


def test_stopping_leaves_out_lower_thresholds_only(generator, tmp_path):
  grid = (1.0, 0.5, 0.02, 0.01, 0.0)
  seen = []

  def reason(manifest, dump):
    seen.append((manifest.thresholds, dump.predictions.shape))
    return 'enough' if len(manifest.thresholds) >= 4 else ''

  for name, stopping in (
    ('all', None),
    ('few', runner.Stopping(reason, 'rule', per_pass=2)),
  ):
    runner.run(
      generator,
      _examples(3),
      _header(generator, grid),
      tmp_path / name,
      stopping=stopping,
    )
  assert seen == [(grid[:2], (3, 2)), (grid[:4], (3, 4))]
  manifest, few = reader.read_dump(tmp_path / 'few')
  everything, whole = reader.read_dump(tmp_path / 'all')
  assert (manifest.thresholds, manifest.stopped) == (grid[:4], 'enough')
  assert (everything.thresholds, everything.stopped) == (grid, '')
  for name in ('tokens', 'num_layers_used', 'predictions'):
    np.testing.assert_array_equal(
      getattr(few, name), getattr(whole, name)[:, :4]
    )
  np.testing.assert_array_equal(few.trace_tokens, whole.trace_tokens)


def test_inputs_are_checked_before_any_is_run(generator, tmp_path):
  examples = _examples(3)
  examples[-1] = dataclasses.replace(examples[-1], inputs='  ' * 40)
  nothing_runs = _Interrupted(generator, 0)
  with pytest.raises(errors.DataError, match='empty'):
    runner.run(nothing_runs, examples, _header(generator), tmp_path / 'dump')


def test_refuses_an_empty_split(generator, tmp_path):
  with pytest.raises(errors.DataError, match='has none'):
    runner.run(generator, [], _header(generator), tmp_path / 'dump')
  assert not (tmp_path / 'dump').exists()


def test_failure_leaves_nothing_behind(generator, tmp_path):
  broken = [dataclasses.replace(x, inputs=' ') for x in _examples(2)]
  with pytest.raises(errors.DataError, match='empty'):
    runner.run(generator, broken, _header(generator), tmp_path / 'dump')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  'output_length',
  [lengths.ProportionalLength(), lengths.ProportionalLength(2.0, extra=1)],
)
def test_another_bound_of_the_output_is_another_model(
  output_length, generator, tmp_path
):
  """Neither is its dump gone on with, nor another model's calibration taken."""
  other = tiny_text.make_generator(output_length=output_length)
  with pytest.raises(KeyboardInterrupt):
    runner.run(
      _Interrupted(generator, 1),
      _examples(5),
      _header(generator),
      tmp_path / 'dump',
      examples_per_shard=2,
    )
  with pytest.raises(errors.DataError, match=r'settings \(output_length\)'):
    runner.run(
      other,
      _examples(5),
      _header(other),
      tmp_path / 'dump',
      examples_per_shard=2,
    )
  there = _header(generator).model
  with pytest.raises(errors.DataError, match='its output_length is None'):
    loading.check_same_model(
      there, loading.LoadedModel(other, 'm').description(), 'The dump'
    )


def test_default_grid_descends_from_the_full_model(generator):
  header = _header(generator, runner.DEFAULT_THRESHOLDS)  # checks the order
  assert header.thresholds[0] == 1.0 and header.thresholds[-1] == 0.0


def test_the_header_has_what_operations_are_counted_from(generator):
  manifest = _header(generator)
  sizes = network_sizes.NetworkSizes.of(manifest.model.network)
  config = generator.model.config
  assert (sizes.emb_dim, sizes.mlp_dim) == (config.emb_dim, config.mlp_dim)
  assert sizes.num_mlp_inputs == 2, 'gated'
  assert manifest.model.exit_layers == (1, 2, 3)
