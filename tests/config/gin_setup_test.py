"""What gin itself takes in silence, or says in a way that does not help."""

import logging

import gin
import pytest

from calm_jax import errors
from calm_jax.config import gin_checks, gin_setup
from calm_jax.study import plan as plan_lib
from calm_jax.t5 import network
from calm_jax.training import loop

TINY = 'gin/experiments/tiny.gin'
HEADER = """
from __gin__ import dynamic_registration
from calm_jax.t5 import network
from calm_jax.training import loop
"""
GIN_FILES = sorted(
  str(path.relative_to(gin_setup.gin_root()))
  for path in (gin_setup.gin_root() / 'gin').rglob('*.gin')
  if path.parent.name != 't5x'  # For T5X's own scripts: tests/t5x.
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Shipped files must be found from any folder."""
  monkeypatch.chdir(tmp_path)
  yield
  gin.clear_config()


def error_of(*bindings, files=(TINY,), text=None, tmp_path=None):
  if text is not None:
    path = tmp_path / 'mine.gin'
    path.write_text(HEADER + text, encoding='utf-8')
    files = ('mine.gin',)
  with pytest.raises(errors.ConfigError) as caught:
    gin_setup.parse(files, bindings)
    gin_setup.configured(loop.train)
  return str(caught.value)


def test_there_are_gin_files():
  assert TINY in GIN_FILES and 'gin/experiments/docstrings.gin' in GIN_FILES


STUDIES = ('gin/experiments/docstrings_measures.gin',)


@pytest.mark.parametrize('name', STUDIES)
def test_every_study_has_a_plan(name):
  gin_setup.parse([name], [])
  plan = gin_setup.call(plan_lib.Plan)
  config = network.T5Config(vocab_size=4096, num_decoder_layers=8)
  for sweep in plan.sweeps.values():
    sweep.measure.check(config)
    assert sweep.thresholds[0] == 1.0


@pytest.mark.parametrize(
  'name',
  [
    x
    for x in GIN_FILES
    if x.startswith('gin/experiments/') and x not in STUDIES
  ],
)
def test_every_experiment_lacks_only_its_folder(name):
  bindings = ['MODEL_DIR = "/tmp/unused"']
  if 'docstring' not in name and name != TINY:
    bindings.append('INITIAL_CHECKPOINT_PATH = "/tmp/unused"')
  missing = ', '.join(sorted(x.partition(' ')[0] for x in bindings))
  assert f'required for {missing}.' in error_of(files=(name,))
  gin_setup.parse([name], bindings)
  gin_setup.configured(loop.train)


@pytest.mark.parametrize(
  'name', [x for x in GIN_FILES if x.startswith('gin/runs/')]
)
def test_every_run_file_fits_a_model(name):
  gin_setup.parse(['gin/models/t5_1_1_tiny.gin', name], [])


def test_bindings_override_files_and_later_files_earlier_ones(tmp_path):
  (tmp_path / 'a.gin').write_text('BATCH_SIZE = 3\nTRAIN_STEPS = 7\n')
  gin_setup.parse([TINY, 'a.gin'], ['TRAIN_STEPS = 9'])
  macros = gin_checks.macro_values()
  assert (macros['BATCH_SIZE'], macros['TRAIN_STEPS']) == (3, 9)


def test_a_parse_forgets_the_one_before():
  gin_setup.parse([TINY], ['TRAIN_STEPS = 9'])
  gin_setup.parse([TINY], [])
  assert gin_checks.macro_values()['TRAIN_STEPS'] == 4


def test_the_user_s_folder_comes_first(tmp_path):
  shadow = tmp_path / 'mine' / TINY
  shadow.parent.mkdir(parents=True)
  shadow.write_text("include 'gin/models/t5_1_1_tiny.gin'\nDROPOUT_RATE = 0.5")
  gin_setup.parse([TINY], [], search_paths='mine')
  assert gin_checks.macro_values()['DROPOUT_RATE'] == 0.5


def test_gin_files_import_modules_of_the_search_paths(tmp_path):
  (tmp_path / 'my_sizes.py').write_text('def size(x=2):\n  return x\n')
  (tmp_path / 'mine.gin').write_text(
    'from __gin__ import dynamic_registration\nimport my_sizes\n'
    'my_sizes.size.x = 3\n'
  )
  gin_setup.parse(['mine.gin'], [], search_paths=str(tmp_path))
  assert gin.query_parameter('my_sizes.size.x') == 3


def test_nothing_is_logged_about_folders_without_the_file(caplog):
  with caplog.at_level(logging.INFO):
    gin_setup.parse([TINY], [])
  assert 'Path not found' not in caplog.text


def test_mistyped_macro_of_the_command_line():
  assert (
    error_of('BACTH_SIZE = 4')
    == 'The macro BACTH_SIZE is never used; did you mean BATCH_SIZE?'
  )


def test_mistyped_macro_of_the_user_s_file(tmp_path):
  text = f"include '{TINY}'\nTRAIN_STEP = 4\n"
  message = error_of(text=text, tmp_path=tmp_path)
  assert 'TRAIN_STEP is never used; did you mean TRAIN_STEPS?' in message


def test_undefined_macro(tmp_path):
  text = f"include '{TINY}'\nloop.train.seed = %RANDOM_SED\n"
  message = error_of(text=text, tmp_path=tmp_path)
  assert '%RANDOM_SED is used but defined nowhere' in message
  assert 'Did you mean %RANDOM_SEED?' in message


def test_unquoted_string_gives_the_corrected_flag():
  message = error_of('MODEL_DIR = /tmp/x')
  assert message.endswith("""write --gin.MODEL_DIR='"/tmp/x"'.""")


def test_all_missing_macros_at_once():
  message = error_of(files=('gin/models/t5_1_1_tiny.gin', 'gin/runs/train.gin'))
  assert (
    'required for MIXTURE_OR_TASK_NAME, MODEL_DIR, TASK_FEATURE_LENGTHS,'
    ' TRAIN_STEPS.' in message
  )
  assert '--gin.TRAIN_STEPS=10000' in message


def test_only_what_the_stage_reaches_is_required():
  gin_setup.parse([TINY], [])
  gin_checks.check_complete(loop.Periods)


def test_missing_file_names_folders_and_the_nearest_file(tmp_path):
  message = error_of(files=('gin/experiments/docstring.gin',))
  assert 'Did you mean gin/experiments/docstrings.gin?' in message
  assert str(gin_setup.gin_root()) in message


def test_missing_included_file(tmp_path):
  message = error_of(text="include 'gin/no.gin'\n", tmp_path=tmp_path)
  assert 'gin/no.gin' in message and 'Searched' in message


def test_missing_module(tmp_path):
  message = error_of(text='import no_such_module\n', tmp_path=tmp_path)
  assert "No module named 'no_such_module'" in message


def test_unknown_configurable(tmp_path):
  message = error_of(text='network.T5Confg.emb_dim = 3\n', tmp_path=tmp_path)
  assert 'mine.gin:5: `network.T5Confg.emb_dim = 3`' in message
  assert 'has no T5Confg. Did you mean T5Config?' in message


def test_unknown_configurable_on_the_command_line():
  message = error_of('loop.trian.seed = 3')
  assert 'Nothing is called loop.trian. Did you mean loop.train?' in message


def test_unknown_reference(tmp_path):
  message = error_of('OPTIMIZER = @optimizers.adafactr()')
  assert 'Did you mean optimizers.adafactor?' in message


def test_unknown_parameter(tmp_path):
  message = error_of(text='network.T5Config.emb_dm = 3\n', tmp_path=tmp_path)
  assert 'mine.gin:5' in message
  assert 'has no parameter emb_dm. Did you mean emb_dim?' in message


def test_module_that_is_not_imported(tmp_path):
  message = error_of(text='netwrk.T5Config.emb_dim = 3\n', tmp_path=tmp_path)
  assert 'netwrk is not imported by this file. Did you mean network?' in message


def test_text_that_is_not_gin(tmp_path):
  message = error_of(text='this is = not = gin\n', tmp_path=tmp_path)
  assert 'is not gin' in message


@pytest.mark.parametrize(
  'binding',
  ["TRAIN_STEPS = '3'", 'TRAIN_STEPS = 2.5', 'TRAIN_STEPS = True'],
)
def test_macros_keep_the_type_of_their_default(binding):
  message = error_of(binding)
  assert 'TRAIN_STEPS must be of type int, as its default 4' in message


@pytest.mark.parametrize('value', ['64', '"64"', '{"inputs": 64}', 'True'])
def test_a_sequence_stays_one(value):
  message = error_of(f'BUCKET_BOUNDARIES = {value}')
  assert 'BUCKET_BOUNDARIES must be of type tuple' in message
  gin_setup.parse([TINY], ['BUCKET_BOUNDARIES = [16, 64]'])


def test_containers_do_not_stand_for_each_other_or_for_numbers():
  message = error_of('TASK_FEATURE_LENGTHS = (64, 64)')
  assert 'TASK_FEATURE_LENGTHS must be of type dict' in message
  assert 'TRAIN_STEPS must be of type int' in error_of('TRAIN_STEPS = (4,)')


@pytest.mark.parametrize('value', ['[1,', '(1', '{"a": 1', "'abc"])
def test_an_open_bracket_on_the_command_line(value):
  message = error_of(f'BUCKET_BOUNDARIES = {value}')
  assert 'The value of BUCKET_BOUNDARIES must be' in message


def test_an_open_bracket_in_a_file(tmp_path):
  message = error_of(text='TRAIN_STEPS = [1,\n', tmp_path=tmp_path)
  assert 'mine.gin' in message and '\n' not in message


def test_a_file_that_is_not_utf8(tmp_path):
  (tmp_path / 'mine.gin').write_bytes(
    '# caf\xe9\nTRAIN_STEPS = 1'.encode('latin-1')
  )
  message = error_of(files=('mine.gin',))
  assert 'mine.gin' in message and 'must be UTF-8' in message


def test_a_whole_number_may_stand_for_a_float():
  gin_setup.parse([TINY], ['DROPOUT_RATE = 0', 'EVALUATOR_NUM_EXAMPLES = None'])


def test_fault_27_folders_become_absolute(tmp_path):
  gin_setup.parse([TINY], ['MODEL_DIR = "runs/a/"'])
  path = gin_setup.absolute_path_macro('MODEL_DIR')
  assert path == tmp_path / 'runs' / 'a'
  assert gin_checks.macro_values()['MODEL_DIR'] == str(path)


def test_a_folder_must_be_a_string():
  gin_setup.parse([TINY], ['MODEL_DIR = 3'])
  with pytest.raises(errors.ConfigError, match='MODEL_DIR must name a folder'):
    gin_setup.absolute_path_macro('MODEL_DIR')


def test_a_folder_must_be_local():
  gin_setup.parse([TINY], ['MODEL_DIR = "gs://bucket/run"'])
  with pytest.raises(errors.ConfigError, match='must be a local folder'):
    gin_setup.absolute_path_macro('MODEL_DIR')
