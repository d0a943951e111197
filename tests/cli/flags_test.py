import pytest

from calm_jax import errors
from calm_jax.cli import flags, settings

SETTINGS = (
  settings.Setting('dump_dir', settings.REQUIRED, 'a', macro='DUMP_OUTPUT_DIR'),
  settings.Setting('output', settings.REQUIRED, 'b'),
  settings.Setting('tolerance', 0.1, 'c, 50 % of it'),
  settings.Setting('metric', None, 'd'),
  settings.Setting('count', None, 'e', kind=int, minimum=1),
)


def parse(*args):
  parser = flags.make_parser('stage', 'A stage.')
  settings.add_flags(parser, SETTINGS)
  return parser.parse_args(args)


def settle(*args):
  return settings.settle(parse(*args), SETTINGS)


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('--gin.BATCH_SIZE=4', '--gin_bindings=BATCH_SIZE = 4'),
    ('--gin.loop.train.seed=1', '--gin_bindings=loop.train.seed = 1'),
    ('--gin.train/a.b="x=y"', '--gin_bindings=train/a.b = "x=y"'),
    ('--gin.MODEL_DIR="/a-b"', '--gin_bindings=MODEL_DIR = "/a-b"'),
    ('--gin-file=my-file.gin', '--gin_file=my-file.gin'),
    ('--failure-prob', '--failure_prob'),
    ('my-file', 'my-file'),
    ('-h', '-h'),
  ],
)
def test_normalize(given, expected):
  assert flags.normalize([given]) == [expected]


def test_nothing_is_rewritten_after_two_dashes():
  assert flags.normalize(['--', '--a-b']) == ['--', '--a-b']


@pytest.mark.parametrize('argument', ['--gin.A', '--gin.A=', '--gin.=3'])
def test_a_binding_needs_a_name_and_a_value(argument):
  with pytest.raises(errors.ConfigError, match=r'--gin.<param>=<value>'):
    flags.normalize([argument])


def test_gin_files_and_bindings_keep_their_order():
  args = parse(
    '--gin_file=a.gin', '--gin_file', 'b.gin', '--gin.A=1', '--gin.B=2'
  )
  assert args.gin_file == ['a.gin', 'b.gin']
  assert args.gin_bindings == ['A = 1', 'B = 2']


@pytest.mark.parametrize(
  'form', [['--tolerance=0.2'], ['--tolerance', '0.2'], ['--gin.TOLERANCE=0.2']]
)
def test_a_flag_and_its_macro_mean_the_same(form):
  values = settle('--dump_dir=d', '--output=o', *form)
  assert values.tolerance == 0.2
  assert values.metric is None


def test_the_flag_wins_over_the_macro():
  values = settle(
    '--dump_dir=d', '--output=o', '--gin.TOLERANCE=0.2', '--tolerance=0.3'
  )
  assert values.tolerance == 0.3


def test_a_whole_number_is_a_float_too():
  values = settle('--dump_dir=d', '--output=o', '--gin.TOLERANCE=1')
  assert values.tolerance == 1.0 and isinstance(values.tolerance, float)


@pytest.mark.parametrize(
  'form', ['--count=0', '--count=-5', '--gin.COUNT=0', '--gin.COUNT=-5']
)
def test_a_number_below_the_minimum(form):
  with pytest.raises(errors.ConfigError, match='count must be at least 1, got'):
    settle('--dump_dir=d', '--output=o', form)
  assert settle('--dump_dir=d', '--output=o', '--count=1').count == 1


def test_all_missing_settings_are_named_at_once():
  with pytest.raises(errors.ConfigError, match='--dump_dir, --output'):
    settle('--tolerance=0.2')


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--tolerence=0.2'], r'Unknown flag --tolerence. Did you mean --toleranc'),
    (['--tolerance=much'], r'invalid float value'),
    (['--tolerance'], r'expected one argument'),
    (['d'], r"no argument 'd' without a flag"),
    (['--dump=d'], r'Unknown flag --dump'),  # no abbreviations
  ],
)
def test_wrong_flags_are_config_errors(args, message):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    parse(*args)
  assert 'calm stage --help' in str(caught.value)


@pytest.mark.parametrize(
  ('binding', 'message'),
  [
    ("--gin.TOLERANCE='0.2'", "TOLERANCE must be of type float, got '0.2'"),
    ('--gin.METRIC=3', 'METRIC must be of type str, got 3'),
    ('--gin.TOLERENCE=0.2', 'TOLERENCE is never used; did you mean TOLERANCE'),
    ('--gin.METRIC=chrf', r"""write --gin.METRIC='"chrf"'"""),
  ],
)
def test_wrong_macros_are_config_errors(binding, message):
  with pytest.raises(errors.ConfigError, match=message):
    settle('--dump_dir=d', '--output=o', binding)
