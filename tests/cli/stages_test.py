"""Each stage from flags to files, with a made-up model where one is needed."""

import importlib
import io
import json
import types

import numpy as np
import pytest
from testing import dumps

from calm_jax.cli import dump, evaluate, generate, loading, main
from calm_jax.config import gin_checks, gin_setup
from calm_jax.decode import description
from calm_jax.early_exit.engine import sampling
from calm_jax.records import contracts, descriptions

LAYERS, LENGTH, SIZE = 8, 6, 60
GRID = (1.0, 0.8, 0.4, 0.0)
TEXTS = ('It works.', 'It works.', 'It works', 'it works')
PIECES = {1: '</s>', 2: '▁It', 3: '▁works', 4: '.'}


def model_of(params_digest, **fields):
  return dumps.make_model(
    params_digest=params_digest,
    num_decoder_layers=LAYERS,
    **{'max_decode_length': LENGTH} | fields,
  )


def write_dump(directory, split, params_digest='weights'):
  """Fewer layers and worse texts the lower the threshold; sorted by length."""
  header = dumps.make_manifest(
    split=split, thresholds=GRID, model=model_of(params_digest)
  )
  tokens = np.zeros((SIZE, len(GRID), LENGTH), np.int32)
  tokens[..., :4] = (2, 3, 4, 1)
  used = np.where(tokens > 0, [[[8], [4], [2], [1]]], 0)
  trace = (SIZE, LENGTH, LAYERS)
  batch = contracts.Dump(
    # As hashes: their order says nothing about the length.
    example_ids=np.array([f'{i * 37 % SIZE:02}-{split}' for i in range(SIZE)]),
    sources=np.array([f'restore: it works{" well" * i}' for i in range(SIZE)]),
    references=np.array(['It works.'] * SIZE),
    predictions=np.array([TEXTS] * SIZE),
    tokens=tokens,
    num_layers_used=used.astype(np.int8),
    confidences=np.where(used > 0, 0.5, 0).astype(np.float32),
    trace_confidences=np.zeros(trace, np.float32),
    trace_tokens=np.zeros(trace, np.int32),
  )
  dumps.write_dump(directory, header, [batch])
  return str(directory)


class FakeGenerator:
  """Answers 'It works.' to everything, with fewer layers below 0.5."""

  model = types.SimpleNamespace(
    config=types.SimpleNamespace(num_decoder_layers=LAYERS),
    measure='the measure',
  )
  tokenizer = types.SimpleNamespace(
    pieces=lambda ids: tuple(PIECES[int(x)] for x in ids)
  )

  def __init__(self):
    self.inputs, self.thresholds = [], []

  def encode(self, texts):
    self.inputs += texts
    return np.ones((len(texts), LENGTH), np.int32)

  def request(self, tokens, thresholds):
    self.thresholds += set(thresholds.tolist())
    return tokens

  def generate_tokens(self, request):
    return types.SimpleNamespace(num_layers_used=np.ones((len(request), 3)))

  def run_encoder(self, tokens):
    del tokens

  def text_request(self, texts, num_decodes, *, threshold, **drawing):
    self.inputs += texts
    self.thresholds.append(threshold)
    self.drawing = drawing
    return texts, num_decodes

  def answer(self, request):
    texts, num_decodes = request
    return [[self.output] * num_decodes for _ in texts]

  output = types.SimpleNamespace(
    text='It works.',
    pieces=('▁It', '▁works', '.'),
    num_layers_used=(8, 2, 2),
  )


def describe(generator, params_digest, *, decode_fn=None, **fields):
  """As `description.describe`, of a fake."""
  del generator
  if decode_fn is not None:
    fields['decode_fn'] = descriptions.describe(decode_fn)
  given = {name: x for name, x in fields.items() if x is not None}
  return model_of(params_digest, **given)


@pytest.fixture
def generator(monkeypatch):
  fake = FakeGenerator()
  monkeypatch.setattr(
    loading, 'load', lambda chosen: loading.LoadedModel(fake, 'weights')
  )
  monkeypatch.setattr(description, 'describe', describe)
  return fake


@pytest.fixture
def stdin(monkeypatch):
  def give(content):
    stream = io.TextIOWrapper(io.BytesIO(content), encoding='utf-8')
    monkeypatch.setattr('sys.stdin', stream)

  return give


@pytest.fixture
def calibrated(tmp_path, capsys):
  """Path of a calibration, and what the command printed."""
  path = tmp_path / 'calibration.json'
  directory = write_dump(tmp_path / 'calibration_dump', 'calibration')
  code = main.main(['calibrate', f'--dump_dir={directory}', f'--output={path}'])
  assert code == 0
  return path, capsys.readouterr().out


def failure(capsys, *args):
  """(exit code, message) of a command that must print one line on stderr."""
  code = main.main(args)
  captured = capsys.readouterr()
  assert captured.err.count('\n') == 1 and captured.err.endswith('\n')
  return code, captured.err


# --- calibrate ----------------------------------------------------------------


def test_calibrate_writes_the_result_and_says_it(calibrated):
  path, printed = calibrated
  result = contracts.read_json(path, contracts.CalibrationResult)
  assert result.threshold == 0.8
  assert (result.tolerance, result.failure_prob) == (0.1, 0.05)
  assert (result.consistency, result.metric) == ('textual', 'chrf')
  assert 'threshold     0.8' in printed and result.reason in printed


def test_calibrate_takes_macros(tmp_path, capsys):
  directory = write_dump(tmp_path / 'dump', 'calibration')
  path = tmp_path / 'c.json'
  code = main.main(
    [
      'calibrate',
      f'--gin.DUMP_OUTPUT_DIR="{directory}"',
      f'--gin.CALIBRATION_FILE="{path}"',
      '--gin.TOLERANCE=0.9',
      '--gin.CONSISTENCY="risk"',
      '--gin.METRIC="exact_match"',
    ]
  )
  assert code == 0, capsys.readouterr().err
  result = json.loads(path.read_text())
  assert (result['tolerance'], result['consistency']) == (0.9, 'risk')
  assert result['metric'] == 'exact_match'


@pytest.mark.parametrize(
  ('flag', 'code', 'message'),
  [
    ('--tolerance=0', 2, 'tolerance'),
    ('--tolerance=1.0', 2, 'tolerance'),
    ('--tolerance=nan', 2, 'tolerance'),
    ('--failure_prob=1.5', 2, 'failure'),
    ('--consistency=text', 2, "Did you mean 'textual'?"),
    ('--metric=chrff', 2, 'chrf'),
    ('--dump_dir=nowhere', 3, 'nowhere'),
  ],
)
def test_calibrate_refuses(flag, code, message, tmp_path, capsys):
  directory = write_dump(tmp_path / 'dump', 'calibration')
  output = tmp_path / 'c.json'
  args = ['calibrate', f'--dump_dir={directory}', f'--output={output}', flag]
  got, printed = failure(capsys, *args)
  assert got == code and message in printed
  assert not output.exists()


def test_calibrate_refuses_a_truncated_dump(tmp_path, capsys):
  directory = write_dump(tmp_path / 'dump', 'calibration')
  shard = tmp_path / 'dump' / 'shard-00000.npz'
  shard.write_bytes(shard.read_bytes()[:-10])
  args = [f'--dump_dir={directory}', f'--output={tmp_path}/c.json']
  code, message = failure(capsys, 'calibrate', *args)
  assert code == 3 and 'shard-00000.npz' in message


# --- evaluate, report ---------------------------------------------------------


@pytest.fixture
def evaluate_args(calibrated, generator, tmp_path):
  """Flags that succeed; later ones of the same name override them."""
  return [
    'evaluate',
    f'--dump_dir={write_dump(tmp_path / "test_dump", "test")}',
    f'--calibration={calibrated[0]}',
    f'--output={tmp_path}/evaluation.json',
  ]


def test_evaluate_and_report(evaluate_args, tmp_path, capsys):
  code = main.main(
    [*evaluate_args, f'--calibration_dump_dir={tmp_path}/calibration_dump']
  )
  printed = capsys.readouterr()
  assert code == 0, printed.err
  output = tmp_path / 'evaluation.json'
  result = contracts.read_json(output, contracts.EvaluationResult)
  assert result.calibrated.mean_layers == 4.0
  assert result.full.tokens_timed == result.calibrated.tokens_timed == 50 * 3
  assert 0.0 < result.baselines['input_copied'] < result.full.mean_metric == 1.0
  assert 'calibrated' in printed.out and f'{result.speedup:.2f}' in printed.out

  page_dir = tmp_path / 'report'
  code = main.main(
    [
      'report',
      f'--calibration={tmp_path}/calibration.json',
      f'--evaluation={output}',
      f'--output_dir={page_dir}',
      f'--dump_dir={tmp_path}/test_dump',
    ]
  )
  printed = capsys.readouterr()
  assert code == 0, printed.err
  page = printed.out.rpartition('Written: ')[2].strip()
  assert page.startswith(str(page_dir)) and page.endswith('.html')


def test_evaluate_adds_what_papers_print_of_calms_tasks():
  manifest = types.SimpleNamespace(
    task='squad_v010_allanswers', thresholds=(1.0, 0.5)
  )
  data = types.SimpleNamespace(
    references=np.array(['In 911\n911', 'Rollo']),
    predictions=np.array([['911', 'Rollo'], ['the 911', 'Rollo the Norman']]).T,
  )
  row = contracts.SystemRow(0.5, 0.0, 0.0, 1.0, 1.0, 1.0, 1)
  scores = evaluate._with_split_scores(row, manifest, data).split_scores
  # 'rollo norman' for 'rollo': precision 1/2, recall 1.
  assert scores == {'em': 50.0, 'f1': pytest.approx(100 * (1 + 2 / 3) / 2)}
  manifest.task = 'docstring_restoration'
  assert evaluate._with_split_scores(row, manifest, data) == row


def test_evaluate_times_texts_of_all_lengths(evaluate_args, generator):
  """A dump is sorted by length: its first texts are the shortest."""
  assert main.main([*evaluate_args, '--timed_examples=10']) == 0
  # All were encoded first, to count their tokens.
  lengths = [text.count('well') for text in generator.inputs[SIZE:]]
  assert len(set(lengths)) == 10
  assert min(lengths) < SIZE / 4 and max(lengths) > 3 * SIZE / 4
  assert {round(x, 6) for x in generator.thresholds} == {1.0, 0.8}


@pytest.mark.parametrize(
  ('fields', 'name'),
  [
    ({'params_digest': 'others'}, 'params_digest'),
    (
      {'output_length': dumps.choice('ProportionalLength', ratio=1, extra=0)},
      'output_length',
    ),
    ({'max_decode_length': 99}, 'max_decode_length'),
    ({'emb_dim': 7}, 'network.emb_dim'),
  ],
)
def test_evaluate_times_the_dumped_model_only(
  fields, name, evaluate_args, generator, monkeypatch, capsys, tmp_path
):
  model = model_of(**{'params_digest': 'weights'} | fields)
  monkeypatch.setattr(description, 'describe', lambda *_, **__: model)
  code, message = failure(capsys, *evaluate_args)
  assert (
    code == 3 and f'The test dump must be of this model: its {name}' in message
  )
  assert not generator.inputs, 'nothing was timed'
  assert not (tmp_path / 'evaluation.json').exists()


def test_fault_18_evaluate_refuses_the_calibration_split(
  evaluate_args, tmp_path, capsys
):
  args = [*evaluate_args, f'--dump_dir={tmp_path}/calibration_dump']
  code, message = failure(capsys, *args)
  assert code == 3 and 'another split' in message
  # Nor does a dump that was not calibrated on show anything.
  other = write_dump(tmp_path / 'other', 'validation')
  code, message = failure(capsys, *args, f'--calibration_dump_dir={other}')
  assert code == 3 and "'calibration', got one with 'validation'" in message
  assert not (tmp_path / 'evaluation.json').exists()


# --- settings -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('stage', 'flag'),
  [
    ('dump', '--max_examples=-5'),
    ('dump', '--gin.MAX_EXAMPLES=0'),
    ('evaluate', '--timed_examples=0'),
    ('evaluate', '--batch_size=0'),
    ('evaluate', '--gin.TIMED_BATCH_SIZE=0'),
    ('demo', '--calibration_examples=0'),
    ('demo', '--test_examples=-1'),
    ('demo', '--timed_examples=0'),
  ],
)
def test_counts_start_at_one(stage, flag, monkeypatch, capsys):
  monkeypatch.setattr(loading, 'load', None)  # Refused before.
  code, message = failure(capsys, stage, flag)
  assert code == 2 and 'must be at least 1, got' in message


def test_stages_and_runs_share_no_macro_by_accident():
  """A training's file given to a later stage must not set its numbers."""
  of_stages = {
    setting.macro
    for stage in main.STAGES
    for setting in getattr(
      importlib.import_module(f'calm_jax.cli.{stage}'), 'SETTINGS', ()
    )
  }
  files = [
    path
    for folder in ('runs', 'models', 'experiments', 'early_exit')
    for path in (gin_setup.gin_root() / 'gin' / folder).glob('*.gin')
    # A stage's own file names its macros: run_files_test.
    if path.stem not in set(main.STAGES) - {'train'}
  ]
  text = '\n'.join(path.read_text(encoding='utf-8') for path in files)
  assert 'BATCH_SIZE' in gin_checks.macro_names(text)
  shared = of_stages & gin_checks.macro_names(text)
  # `calm doctor` looks at the folder that training would write.
  assert shared == {'MIXTURE_OR_TASK_NAME', 'MODEL_DIR'}


# --- dump ---------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (None, None),
    ('1', (1.0,)),
    ('1,0.5, 0', (1.0, 0.5, 0.0)),
    ((1, 0.5), (1.0, 0.5)),
  ],
)
def test_thresholds(text, expected):
  assert dump.parse_thresholds(text) == expected


@pytest.mark.parametrize(
  'text', ['', '0.5', '1.1,1', '1,-0.1', '1,nan', 'a', '1;0']
)
def test_dump_refuses_other_thresholds(text, capsys, tmp_path):
  args = [f'--output_dir={tmp_path}/d', f'--thresholds={text}']
  code, message = failure(capsys, 'dump', *args)
  assert code == 2 and 'down to at least 0' in message


def test_dump_refuses_an_unknown_task(generator, capsys, tmp_path):
  args = [f'--output_dir={tmp_path}/d', '--task=docstring_restauration']
  code, message = failure(capsys, 'dump', *args)
  assert code == 2 and 'docstring_restoration' in message


# --- generate -----------------------------------------------------------------


def test_generate_pairs_tokens_with_layers_in_a_pipe(generator, capsys):
  assert main.main(['generate', 'It works', 'so it does']) == 0
  captured = capsys.readouterr()
  assert captured.out == '▁It/8 ▁works/2 ./2\n' * 2
  assert generator.inputs == ['restore: it works', 'restore: so it does']
  assert generator.thresholds == [0.9, 0.9]
  assert '4.00 of 8 decoder layers per token, 6 tokens' in captured.err


def test_generate_reads_lines(generator, stdin, capsys):
  stdin('It works\r\nnaïve\n'.encode())
  assert main.main(['generate', '--format=text', '--threshold=0.3']) == 0
  assert capsys.readouterr().out == 'It works.\n' * 2
  assert generator.inputs[1] == 'restore: naïve'
  assert generator.thresholds == [0.3, 0.3]


def test_generate_colors_where_asked(generator, capsys):
  assert main.main(['generate', '--format=color', 'it works']) == 0
  legend, text = capsys.readouterr().out.splitlines()
  assert legend.startswith('layers used: ') and '\x1b[48;5;' in text


@pytest.mark.parametrize('content', [b'', b'\n', b'  \t \n', b'...\n'])
def test_generate_refuses_empty_text(content, generator, stdin, capsys):
  stdin(content)
  code, message = failure(capsys, 'generate')
  assert code == 3 and 'text' in message


def test_generate_refuses_bytes_that_are_not_text(generator, stdin, capsys):
  stdin(b'\xff\xfe\n')
  code, message = failure(capsys, 'generate')
  assert code == 3 and 'Line 1 of the standard input must be UTF-8' in message


@pytest.mark.parametrize(
  'task', ['docstring_restoration', 'docstring_summarization']
)
def test_generate_refuses_arguments_that_are_not_text(task, generator, capsys):
  text = b'it works \xff'.decode('utf-8', 'surrogateescape')
  code, message = failure(capsys, 'generate', f'--task={task}', 'fine', text)
  assert code == 3 and 'Text 2 must be UTF-8' in message
  assert len(generator.inputs) == 1


@pytest.mark.parametrize('value', ['-0.1', '1.1', 'nan', 'inf'])
def test_generate_refuses_thresholds_outside_the_unit_interval(
  value, generator, capsys
):
  code, message = failure(capsys, 'generate', f'--threshold={value}', 'text')
  assert code == 2 and 'must be in [0, 1]' in message


def test_generate_takes_one_source_of_its_threshold(generator, capsys):
  args = ['--threshold=0.5', '--calibration=c.json', 'text']
  code, message = failure(capsys, 'generate', *args)
  assert code == 2 and 'not both' in message


def test_generate_draws_as_the_flags_say(generator, capsys):
  flags = ['--temperature=0.7', '--top_k=5', '--seed=3', '--num_decodes=2']
  assert (
    main.main(['generate', *flags, '--prompt=It', '--format=text', 'a']) == 0
  )
  assert capsys.readouterr().out.splitlines() == ['It works.'] * 2
  assert generator.drawing == {
    'decode_fn': sampling.Sampler(temperature=0.7, top_k=5),
    'seed': 3,
    'prompts': ['It'],
    'max_decode_length': None,
  }


def test_generate_searches_with_beams(generator, capsys):
  flags = ['--beam_size=4', '--num_decodes=3', '--format=text']
  assert main.main(['generate', *flags, 'a']) == 0
  assert capsys.readouterr().out.splitlines() == ['It works.'] * 3


@pytest.mark.parametrize(
  'flags, said',
  [
    (['--num_decodes=2'], 'num_decodes above 1 needs'),
    (['--beam_size=2', '--threshold=0.5'], 'full model alone'),
    (['--beam_size=2', '--temperature=1'], 'full model alone'),
    (['--temperature=0'], 'temperature must be finite'),
    (['--top_p=1.5'], 'top_p must be in'),
  ],
)
def test_generate_refuses_what_does_not_go_together(
  flags, said, generator, capsys
):
  code, message = failure(capsys, 'generate', *flags, 'text')
  assert code == 2 and said in message
  assert not generator.inputs


def test_generate_uses_the_calibrated_threshold(calibrated, generator):
  assert main.main(['generate', f'--calibration={calibrated[0]}', 'text']) == 0
  assert generator.thresholds == [0.8]


def test_generate_refuses_the_calibration_of_another_model(
  calibrated, generator, monkeypatch, capsys
):
  other = model_of('weights', measure=dumps.choice('Patience'))
  monkeypatch.setattr(description, 'describe', lambda *_, **__: other)
  args = [f'--calibration={calibrated[0]}', 'text']
  code, message = failure(capsys, 'generate', *args)
  assert code == 3 and not generator.inputs
  assert 'its measure is SoftmaxTopTwoGap(), and here it is Pati' in message


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--temperature=0.5', 'its decode_fn is Greedy(), and here it is Sampler('),
    ('--max_decode_length=99', 'and here it is 99'),
  ],
)
def test_a_calibration_holds_for_the_outputs_that_were_calibrated(
  flag, said, calibrated, generator, capsys
):
  """Draws, and longer outputs, were never tested; a bare threshold promises
  nothing, so it may be used for them."""
  args = ['generate', flag, 'text']
  code, message = failure(capsys, *args, f'--calibration={calibrated[0]}')
  assert code == 3 and not generator.inputs
  assert said in message and '--threshold=0.8' in message
  assert main.main([*args, '--threshold=0.8']) == 0


def test_the_summary_of_no_certified_threshold_warns():
  from calm_jax.cli import calibrate

  result = types.SimpleNamespace(
    threshold=1.0,
    tolerance=0.01,
    failure_prob=0.05,
    consistency='textual',
    metric='chrf',
    p_value='HoeffdingBentkus()',
    procedure='FixedSequence()',
    guarantee=contracts.HIGH_PROBABILITY,
    num_examples=10,
    reason='A reason.',
    warning='Too few.',
  )
  assert calibrate.summary(result).endswith('A reason.\nWarning: Too few.')


def test_default_threshold_is_in_the_help(capsys):
  assert main.main(['generate', '--help']) == 0
  assert str(generate._DEFAULT_THRESHOLD) in capsys.readouterr().out
