"""`calm convert`: what it writes, prints and refuses."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
from testing import tiny_t5

from calm_jax.checkpoints import (
  from_huggingface,
  from_t5x,
  load,
  param_trees,
  parity_batch,
  to_huggingface,
)
from calm_jax.cli import main
from calm_jax.data import vocabulary
from calm_jax.decode import generation
from calm_jax.t5 import cross_entropy, network

# 26 pieces, so that 100 sentinels more fit 128 rows.
PIECES = (
  pathlib.Path(seqio.__file__).parent
  / 'test_data/sentencepiece/sentencepiece.model'
)


@pytest.fixture(scope='module')
def config(hf_tiny):
  return from_huggingface.load(hf_tiny / 't5_v1_1_tiny').config


@pytest.fixture
def convert(tmp_path, capsys):
  def run(model, *flags):
    args = ['convert', f'--model={model}', f'--output_dir={tmp_path / "out"}']
    code = main.main([*args, *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run


def assert_same(found, expected):
  found, expected = map(param_trees.flatten, (found, expected))
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)


def losses_in(text):
  return [float(x) for x in re.findall(r'loss ([\d.]+) per token', text)]


def ids_in(text, name):
  (ids,) = re.findall(rf'{name} +\[(.*)\]', text)
  return np.array([[int(x) for x in ids.split(',')]])


def test_t5x_becomes_a_model_folder(t5x_tiny, config, convert, tmp_path):
  """The loss is that of another route: T5X's cross-entropy of the logits."""
  code, out, err = convert(
    t5x_tiny / 't5_1_1_tiny', f'--vocabulary={PIECES}', '--inputs_length=16'
  )
  assert (code, err) == (0, '')
  params = from_t5x.load_params(t5x_tiny / 't5_1_1_tiny', config)
  assert_same(load.load_model(tmp_path / 'out').params, params)
  assert '26 pieces for 128 rows' in out and 'Read back:  the same' in out
  generator = generation.load(tmp_path / 'out')
  assert generator.model.config == config
  assert (generator.inputs_length, generator.max_decode_length) == (16, 128)

  sources, targets = ids_in(out, 'input_ids'), ids_in(out, 'labels')
  # <extra_id_0> and the next ones, from the top of pieces and sentinels.
  assert [x for x in sources[0] if x >= 26] == [125, 124]
  assert [x for x in targets[0] if x >= 26] == [125, 124, 123]
  decoder_inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  module = network.Transformer(config)
  apply = functools.partial(module.apply, enable_dropout=False)
  logits = jax.jit(apply)({'params': params}, sources, decoder_inputs, targets)
  total, _, _ = cross_entropy.compute_weighted_cross_entropy(
    logits, jnp.asarray(targets), jnp.ones(targets.shape)
  )
  (loss,) = losses_in(out)
  assert loss == pytest.approx(float(total) / targets.size, rel=1e-5)
  magnitudes = re.search(r'of their magnitudes (\S+)', out)[1]
  assert float(magnitudes) == pytest.approx(np.abs(logits).sum(), rel=1e-5)


def test_half_precision_is_what_it_says(hf_tiny, convert, tmp_path):
  code, out, _ = convert(
    hf_tiny / 't5_v1_0_tiny', f'--vocabulary={PIECES}', '--precision=float16'
  )
  assert code == 0
  before, after = losses_in(out)
  assert 0 < abs(after - before) < 1e-2
  params = from_huggingface.load(hf_tiny / 't5_v1_0_tiny').params
  rounded = {
    name: array.astype(np.float16).astype(np.float32)
    for name, array in param_trees.flatten(params).items()
  }
  assert_same(
    load.load_model(tmp_path / 'out').params, param_trees.unflatten(rounded)
  )


def test_t5x_to_hugging_face_needs_no_vocabulary(t5x_tiny, convert, tmp_path):
  code, out, _ = convert(t5x_tiny / 't5_1_0_tiny', '--format=huggingface')
  assert code == 0 and 'Vocabulary: none. An embedding of 128 rows' in out
  found = from_huggingface.load(tmp_path / 'out')
  assert_same(
    found.params, from_t5x.load_params(t5x_tiny / 't5_1_0_tiny', found.config)
  )


@pytest.mark.parametrize(
  ('flags', 'code', 'message'),
  [
    ([], 3, 'name its SentencePiece file with --vocabulary'),
    (
      [f'--vocabulary={vocabulary.DEFAULT_PATH}'],
      3,
      'has 4096 pieces, but the embedding only 128 rows',
    ),
    (['--vocabulary=no.model'], 3, 'must be a readable SentencePiece'),
    (['--format=trainin'], 2, "Did you mean 'training'?"),
    (['--precision=bfloat16'], 2, 'precision must be one of'),
    (['--format=training'], 2, 'requires gin files that give MODEL'),
    (['--first_step=-1'], 2, 'must be at least 0'),
  ],
)
def test_refusals_write_nothing(
  hf_tiny, convert, tmp_path, flags, code, message
):
  found, _, err = convert(hf_tiny / 't5_v1_1_tiny', *flags)
  assert found == code and message in err
  assert not (tmp_path / 'out').exists()


def test_a_vocabulary_that_is_much_too_small(convert, tmp_path):
  config = tiny_t5.tiny_config(tied=True).replace(vocab_size=300)
  to_huggingface.save(
    tmp_path / 'model', tiny_t5.tiny_params(config), config, PIECES
  )
  code, out, _ = convert(tmp_path / 'model')
  assert code == 0 and 'Note: 274 rows have no piece' in out
  found = load.load_model(tmp_path / 'out').params
  assert_same(found, tiny_t5.tiny_params(config))  # exit classifiers too


TINY = (
  '--gin_file=gin/models/t5_1_1_tiny.gin',
  '--gin.VOCAB_SIZE=128',
  '--gin.network.T5Config.num_encoder_layers=3',
)


def test_gin_files_must_describe_the_checkpoint(t5x_tiny, convert, tmp_path):
  code, _, err = convert(t5x_tiny / 't5_1_1_tiny', *TINY)
  assert code == 3
  assert 'num_decoder_layers = 4 (the configuration has 3)' in err
  assert 'not expected: decoder/layers_3/' in err
  assert not (tmp_path / 'out').exists()


def test_a_training_checkpoint_by_command(t5x_tiny, convert, tmp_path):
  code, out, _ = convert(
    t5x_tiny / 't5_1_1_tiny',
    *TINY,
    '--gin.network.T5Config.num_decoder_layers=4',
    '--gin_file=gin/runs/train.gin',
    '--format=training',
    '--first_step=2',
  )
  assert code == 0
  checkpoint = tmp_path / 'out' / 'checkpoint_2'
  assert f'Written: {checkpoint}, parameters and accumulators of step 0' in out
  assert (checkpoint / 'state').is_dir()


def test_batches_of_other_vocabularies():
  tokenizer = vocabulary.Tokenizer(PIECES)
  # No room for sentinels, or far too many rows: the target is the source.
  for rows in (26, 4096):
    batch = parity_batch.make_batch(tokenizer, rows)
    assert batch.inputs == batch.targets and not batch.has_sentinels
    assert max(batch.inputs) < 26
  assert max(parity_batch.make_batch(None, 8).inputs) == 7
