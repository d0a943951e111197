"""`calm generate`: which flags go together, before the model is loaded."""

import types

import pytest

from calm_jax.cli import loading, main
from calm_jax.decode import beam_search


class _Generator:
  """Keeps what it was asked for; one output per beam or draw."""

  model = types.SimpleNamespace(
    config=types.SimpleNamespace(num_decoder_layers=2)
  )
  output = types.SimpleNamespace(
    text='Yes.', pieces=('▁Yes', '.'), num_layers_used=(2, 2)
  )

  def __init__(self):
    self.asked = []

  def text_request(self, texts, num_decodes, **options):
    self.asked.append((num_decodes, options))
    return texts, num_decodes

  def answer(self, request):
    texts, num_decodes = request
    return [[self.output] * num_decodes for _ in texts]


@pytest.fixture
def generator(monkeypatch):
  fake = _Generator()
  monkeypatch.setattr(
    loading, 'load', lambda chosen: loading.LoadedModel(fake, 'weights')
  )
  return fake


@pytest.fixture
def no_model(monkeypatch):
  def load(chosen):
    raise AssertionError('the model was loaded before the flags were checked')

  monkeypatch.setattr(loading, 'load', load)


def test_a_beam_search_prints_its_best_output(generator, capsys):
  assert main.main(['generate', '--beam_size=4', '--format=text', 'a']) == 0
  assert capsys.readouterr().out == 'Yes.\n'
  ((num_beams, options),) = generator.asked
  assert num_beams == 4 and options['threshold'] == 1.0
  assert options['decode_fn'] == beam_search.BeamSearch()


def test_a_beam_search_takes_its_flags(generator, capsys):
  flags = ['--alpha=0.2', '--prompt=Y', '--max_decode_length=9']
  assert main.main(
    ['generate', '--beam_size=3', '--num_decodes=2', *flags, 'a']
  ) == 0  # fmt: skip
  assert capsys.readouterr().out.count('Yes') == 2
  ((num_beams, options),) = generator.asked
  assert num_beams == 3
  assert options['decode_fn'] == beam_search.BeamSearch(0.2)
  assert (options['prompts'], options['max_decode_length']) == (['Y'], 9)


def test_the_longest_output_is_handed_on(generator):
  assert main.main(['generate', '--max_decode_length=5', 'a']) == 0
  ((_, options),) = generator.asked
  assert options['max_decode_length'] == 5 and options['seed'] == 0


@pytest.mark.parametrize(
  'flags, code, said',
  [
    (['--beam_size=2', '--num_decodes=3'], 2, 'at most beam_size 2, got 3'),
    (['--beam_size=2', '--alpha=-1'], 2, 'alpha'),
    (['--beam_size=2', '--alpha=nan'], 2, 'alpha'),
    (['--alpha=0.5'], 2, 'add --beam_size'),
    (['--seed=1'], 2, 'A seed is for draws'),
    (['--beam_size=2', '--seed=1'], 2, 'A seed is for draws'),
    (['--temperature=1', '--seed=-1'], 2, 'seed must be in [0, 2^32)'),
    (['--temperature=1', f'--seed={2**32}'], 2, 'seed must be in [0, 2^32)'),
    (['--top_p=nan'], 2, 'top_p must be'),
    (['--max_decode_length=0'], 2, 'at least 1'),
    (
      [b'--prompt=caf\xe9'.decode('utf-8', 'surrogateescape')],
      3,
      'The prompt must be UTF-8',
    ),
  ],
)
def test_flags_are_checked_before_the_model_is_loaded(
  flags, code, said, no_model, capsys
):
  assert main.main(['generate', *flags, 'a text']) == code
  assert said in capsys.readouterr().err
