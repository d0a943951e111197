"""From examples to lines: the same as text generation, whatever interrupts."""

import json
import os
import signal
import types

import numpy as np
import pytest
from testing import dumps, tiny_text

from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.inference import results, runner

THRESHOLD = 0.002


def examples_of(count):
  return [
    corpus.Example(f'id{i}', 'restore: ' + 'word ' * (i + 1), f'Word {i}.')
    for i in range(count)
  ]


def job_of(generator, examples, **changes):
  settings = {
    'task': 'task',
    'split': 'test',
    'mode': 'predict_with_aux',
    'threshold': THRESHOLD,
    'model': dumps.make_model(max_decode_length=6),
    'num_decodes': 1,
    'num_beams': 0,
    'seed': 0,
    'prompt': '',
    'batch_size': 2,
    'batches_per_chunk': 1,
    'shard_id': 0,
    'num_shards': 1,
    'command': 'calm infer',
  }
  return runner.job(generator, examples, **settings | changes)


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator()


def lines_of(path):
  return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


def test_predictions_are_those_of_the_text_generator(generator, tmp_path):
  examples = examples_of(5)
  job = job_of(generator, examples)
  outcome = runner.run(
    generator,
    lambda batch: generator.generate_many(
      [x.inputs for x in batch], 1, threshold=THRESHOLD
    ),
    examples,
    job,
    tmp_path,
  )
  found = lines_of(tmp_path / job.file_name)
  # The second route: each text beside another one.
  expected = [
    generator.generate([example.inputs, 'restore: a'], threshold=THRESHOLD)[0]
    for example in examples
  ]
  for line, example, one in zip(found, examples, expected, strict=True):
    assert line['inputs'] == {
      'inputs_pretokenized': example.inputs,
      'targets_pretokenized': example.targets,
    }
    assert line['prediction'] == one.text
    tokens = [x for x in line['prediction_tokens'] if x > 1]
    assert generator.tokenizer.decode(tokens) == one.text
    assert tuple(line['aux']['exits']) == one.num_layers_used
    np.testing.assert_allclose(
      line['aux']['confidences'], one.confidences, atol=1e-5
    )
    assert line['aux']['scores'] == pytest.approx(one.log_prob, abs=1e-4)
  used = [x for line in found for x in line['aux']['exits']]
  assert len(set(used)) > 1, 'some tokens were to leave early'
  counts = results.Counts(5, len(used), sum(used))
  assert outcome == runner.Outcome(counts, is_new=True)


class Decode:
  """Says what it was given, and fails or signals at a batch."""

  def __init__(self, fail_at=None, signal_at=None):
    self.batches = []
    self._fail_at, self._signal_at = fail_at, signal_at

  def __call__(self, batch):
    texts = [example.inputs for example in batch]
    if len(self.batches) == self._fail_at:
      raise KeyboardInterrupt
    if len(self.batches) == self._signal_at:
      os.kill(os.getpid(), signal.SIGTERM)
    self.batches.append(texts)
    return [
      [
        generation.Generation(
          text=text.upper(),
          pieces=('x',),
          tokens=(len(text),),
          num_layers_used=(2,),
          confidences=(1 / 3,),
          log_prob=-0.1,
        )
      ]
      for text in texts
    ]


class Model:
  """What the runner asks of a generator, without a network."""

  inputs_length = 8
  max_decode_length = 6

  model = types.SimpleNamespace(rows_per_pack=())

  def encode(self, texts):
    return np.zeros((len(texts), 8), np.int32)


@pytest.fixture
def run(tmp_path):
  """Runs 7 examples in chunks of two batches of two; returns the bytes."""
  model = Model()

  def call(name, decode, count=7, **changes):
    examples = examples_of(count)
    job = job_of(model, examples, batches_per_chunk=2, **changes)
    in_batches = runner.in_batches(decode, min(job.batch_size, max(count, 1)))
    runner.run(model, in_batches, examples, job, tmp_path / name)
    return (tmp_path / name / job.file_name).read_bytes()

  return call


def test_every_batch_has_one_shape_and_every_text_one_line(run):
  decode = Decode()
  lines = run('a', decode).splitlines()
  assert [len(texts) for texts in decode.batches] == [2] * 4
  texts = [x.inputs for x in examples_of(7)]
  assert sum(decode.batches, []) == [*texts, texts[-1]]
  predictions = [json.loads(line)['prediction'] for line in lines]
  assert predictions == [text.upper() for text in texts]


def test_fewer_texts_than_a_batch_have_no_rows_beside_them(run):
  decode = Decode()
  run('a', decode, batch_size=32)
  assert [len(texts) for texts in decode.batches] == [7]


def test_a_share_without_examples_is_an_empty_file(run):
  assert run('a', Decode(), count=0) == b''


@pytest.mark.parametrize('batch', range(4))
def test_a_kill_at_any_batch_changes_no_byte(batch, run):
  whole = run('once', Decode())
  with pytest.raises(KeyboardInterrupt):
    run('twice', Decode(fail_at=batch))
  decode = Decode()
  assert run('twice', decode) == whole
  assert len(decode.batches) == 4 - batch // 2 * 2, 'whole chunks are kept'


@pytest.mark.parametrize('batch', [0, 1])
def test_fault_54_a_signal_finishes_the_chunk(batch, run, capsys):
  whole = run('once', Decode())
  decode = Decode(signal_at=batch)
  with pytest.raises(SystemExit) as left:
    run('twice', decode)
  assert left.value.code == 143 and len(decode.batches) == 2
  assert 'SIGTERM: finished chunk 1 of 2' in capsys.readouterr().err
  decode = Decode()
  assert run('twice', decode) == whole and len(decode.batches) == 2


def test_a_signal_at_the_last_chunk_lets_the_run_complete(run):
  assert run('a', Decode(signal_at=3)) == run('b', Decode())


def test_a_complete_file_is_not_made_again(run):
  whole = run('a', Decode())
  decode = Decode()
  assert run('a', decode) == whole and not decode.batches
