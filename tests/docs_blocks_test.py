"""Every block and command of the docs: run, parsed, or listed with a reason.

Python blocks run, page by page, where the files that they read lie and
`calm_jax.load` gives a tiny model. Commands are parsed by the real parsers and
not run; what they name must exist.
"""

import importlib.util
import json
import pathlib
import re
import shlex
from typing import NamedTuple

import pytest
from testing import dumps, tiny_text

import calm_jax
from calm_jax.cli import main
from calm_jax.config import gin_setup
from calm_jax.study import run

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md')),
]

# Pages whose blocks of a language are run, or checked closer, elsewhere.
ELSEWHERE = {
  ('docs/calibration.md', 'python'): 'tests/calibration/docs_test.py',
  ('docs/tpu.md', 'sh'): 'tests/tpu_scripts/docs_test.py',
}
# Python that is not run here: page, what it begins with -> why.
NOT_RUN = {
  ('docs/checkpoints.md', 'out = AutoModelForSeq2SeqLM'): (
    'transformers and torch are no dependencies; tests/testdata/hf_tiny has'
    ' what they computed'
  ),
  ('docs/decoding.md', 'from calm_jax.decode import beam_search'): (
    'a fragment: the module and the batch are not ours; run with tiny ones in'
    ' tests/t5x/predictor_test.py'
  ),
  ('docs/decoding.md', 'import calm_jax\nfrom calm_jax.early_exit.engine'): (
    'compiles another program; tests/decode/generation_test.py draws, and'
    ' tests/decode/continuous_batching_test.py has slots'
  ),
  ('docs/devices.md', 'generation.TextGenerator('): (
    'needs four devices; run with eight in tests/many_devices_test.py'
  ),
}
# Commands of other programs: what they begin with -> why they are not checked.
OTHER_COMMANDS = {
  'pip install': 'installs',
  'tfds build': 'downloads',
  'gsutil cp': 'downloads',
  'github=': 'a variable of the next command',
  'python -m t5x.': 'needs T5X, not on PyPI; tests/t5x/scripts_test.py',
  'cd ': 'into a folder of T5X',
  'find . -type f': 'coreutils; tests/checkpoints reads what it writes',
}
# Files that a command of the docs writes.
OUTPUTS = {'benchmarks/results/decode.json'}
# Gin files that a page tells the reader to write.
READERS_GIN_FILES = {'headlines.gin'}


class Block(NamedTuple):
  page: str
  language: str
  content: str


def blocks_of(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  assert text.count('\n```') % 2 == 0, f'{page} has an open block.'
  return [
    Block(page, language, content)
    for language, content in re.findall(
      r'^ *```(\w*)\n(.*?)^ *```$', text, re.MULTILINE | re.DOTALL
    )
  ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def test_every_language_is_known():
  assert {block.language for block in BLOCKS} <= {
    '', 'bash', 'bibtex', 'json', 'python', 'sh',
  }  # fmt: skip


# ---- Python ------------------------------------------------------------------


def why_not(block):
  for (page, beginning), reason in NOT_RUN.items():
    if block.page == page and block.content.startswith(beginning):
      return reason
  return None


PYTHON_PAGES = sorted(
  {x.page for x in BLOCKS if x.language == 'python' and not why_not(x)}
  - {page for page, language in ELSEWHERE if language == 'python'}
)


@pytest.fixture(scope='module')
def readers_folder(tmp_path_factory):
  """What a reader has made by the commands before the Python blocks."""
  folder = tmp_path_factory.mktemp('reader')
  (folder / 'benchmarks').symlink_to(ROOT / 'benchmarks')
  for name in ('calibration_dump', 'softmax', 'dump/test'):
    manifest, data = dumps.make_dump(40)
    dumps.write_dump(folder / 'runs' / name, manifest, [data])
  assert not main.main([
    'calibrate', f'--dump_dir={folder}/runs/calibration_dump',
    f'--output={folder}/runs/calibration.json',
  ])  # fmt: skip
  (line,) = [
    block.content for block in BLOCKS
    if block.page == 'docs/inference.md' and block.language == 'json'
  ]  # fmt: skip
  infer = folder / 'runs/infer/lines-predict_with_aux.jsonl-00000-of-00001'
  infer.parent.mkdir()
  infer.write_text(json.dumps(json.loads(line)) + '\n', encoding='utf-8')
  return folder


@pytest.fixture(scope='module')
def generator():
  return tiny_text.make_generator(max_decode_length=4)


@pytest.mark.parametrize('page', PYTHON_PAGES)
def test_python_blocks_run(page, readers_folder, generator, monkeypatch):
  monkeypatch.chdir(readers_folder)
  monkeypatch.syspath_prepend(str(ROOT))
  monkeypatch.setattr(
    calm_jax,
    'load',
    lambda path=None, measure=None: (
      generator if measure is None else run.with_measure(generator, measure)
    ),
  )
  names = {'__name__': 'docs'}
  for block in blocks_of(page):
    if block.language == 'python' and not why_not(block):
      exec(compile(block.content, page, 'exec'), names)


def test_what_is_not_run_is_still_python_and_still_there():
  for page, beginning in NOT_RUN:
    (content,) = [
      block.content for block in BLOCKS
      if block.page == page and block.content.startswith(beginning)
    ]  # fmt: skip
    compile(content, page, 'exec')


# ---- Commands ----------------------------------------------------------------


def commands_in(content):
  """The commands of a shell block, loops written out."""
  content = content.replace('\\\n', ' ')
  loops = re.compile(
    r'^for (\w+) in ([^;]*); do\n(.*?)^done$', re.MULTILINE | re.DOTALL
  )
  content = loops.sub(
    lambda loop: ''.join(
      loop[3].replace(f'${loop[1]}', value) for value in loop[2].split()
    ),
    content,
  )
  lines = (line.strip() for line in content.splitlines())
  return [line for line in lines if line and not line.startswith('#')]


def inline_commands(page):
  """`calm STAGE --flag ...` within the text."""
  text = (ROOT / page).read_text(encoding='utf-8')
  text = re.sub(r'^ *```.*?^ *```$', '', text, flags=re.M | re.S)
  for command in re.findall(r'`(calm [a-z]+ [^`]*--[^`]*)`', text):
    if not re.search(r'…|\.\.\.|\||--help', command):
      yield ' '.join(command.split())


COMMANDS = sorted(
  {
    (block.page, command)
    for block in BLOCKS
    if block.language in ('sh', 'bash') and (block.page, 'sh') not in ELSEWHERE
    for command in commands_in(block.content)
  }
  | {
    (page, command)
    for page in PAGES
    if page != 'docs/reliability.md'  # Failures, made in tests/faults.
    for command in inline_commands(page)
  }
)


@pytest.mark.parametrize('page, command', COMMANDS, ids=lambda x: x[:70])
def test_commands_can_be_given(page, command):
  program, *args = shlex.split(command, comments=True)
  if program == 'calm':
    _check_calm(args)
  elif program == 'make':
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert re.search(rf'^{args[0]}:', makefile, re.MULTILINE)
  elif program == 'python' and not args[1].startswith('t5x.'):
    _check_python(args)
  else:
    assert any(command.startswith(x) for x in OTHER_COMMANDS), (
      f'{page}: {command} must be checked, or listed with a reason.'
    )


def _check_calm(args):
  stage, *rest = [arg for arg in args if arg not in ('...', '&')]
  if stage.startswith('--'):
    assert stage in ('--help', '--version') and not rest
    return
  parsed = main.make_parser(stage).parse_args(
    [arg for arg in rest if arg != '--help']
  )
  folders = gin_setup.search_directories(parsed.gin_search_paths)
  for name in parsed.gin_file:
    if name not in READERS_GIN_FILES:
      gin_setup.find_file(name, [ROOT, *(ROOT / x for x in folders)])


def _check_python(args):
  if args[0] == '-m':
    assert importlib.util.find_spec(args[1]) is not None
  else:
    assert (ROOT / args[0]).is_file()


def test_the_lists_hold_nothing_that_is_gone():
  commands = [command for _, command in COMMANDS]
  for beginning in OTHER_COMMANDS:
    assert any(x.startswith(beginning) for x in commands), beginning
  for place in ELSEWHERE.values():
    assert (ROOT / place).is_file()


# ---- Everything else ---------------------------------------------------------


def test_blocks_without_a_language_hide_no_command():
  for block in BLOCKS:
    if not block.language:
      assert not re.search(r'^(calm|make|python) ', block.content, re.M), block
      for name in re.findall(r"^include '(.*)'$", block.content, re.M):
        assert (ROOT / name).is_file(), name


def test_json_blocks_are_json():
  for block in BLOCKS:
    if block.language == 'json':
      json.loads(block.content)


@pytest.mark.parametrize('page', PAGES)
def test_files_and_links_exist(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  named = re.findall(
    r'`((?:calm_jax|docs|gin|tests|benchmarks|reliability|tpu_scripts)/[\w./]+)`',
    text,
  )
  links = re.findall(r'\]\((?!https?:|#)([^)#]+)[^)]*\)', text)
  missing = [x for x in {*named} - OUTPUTS if not (ROOT / x).exists()]
  missing += [x for x in links if not (ROOT / page).parent.joinpath(x).exists()]
  assert not missing
