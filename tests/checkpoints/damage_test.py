"""Files cut, extended and flipped at many places: the same model, or DataError.

Never another model, another exception, or a wait. safetensors and Orbax do not
check data themselves; where these are covered, SHA256SUMS lies beside them, and
without it the header alone, which would change what the data mean.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from testing import t5x_files

from calm_jax import errors
from calm_jax.checkpoints import (
  bundle,
  from_huggingface,
  from_t5x,
  load,
  orbax_io,
  param_trees,
  sha256sums,
)
from calm_jax.data import vocabulary

PLACES = 24  # of each kind of damage in each file


@dataclasses.dataclass
class Target:
  """Something that is read from files.

  Attributes:
    read: gives arrays or other values, to be compared.
    files: those to be damaged.
    header: bytes at the start of each to be flipped; all of it if None.
  """

  read: Callable[[], Any]
  files: list[pathlib.Path]
  header: int | None = None


def leaves(tree):
  return {x: np.asarray(y) for x, y in param_trees.flatten(tree).items()}


# --- what is read -------------------------------------------------------------


def huggingface(hf_tiny, tmp_path, **_):
  directory = shutil.copytree(hf_tiny / 't5_v1_1_tiny', tmp_path / 'hf')
  path = directory / 'model.safetensors'
  header = 8 + int.from_bytes(path.read_bytes()[:8], 'little')
  return Target(
    lambda: leaves(from_huggingface.load(directory).params), [path], header
  )


def huggingface_config(hf_tiny, tmp_path, **_):
  directory = shutil.copytree(hf_tiny / 't5_v1_1_tiny', tmp_path / 'hf')

  def read():
    model = from_huggingface.load(directory)
    # Dropout belongs to training.
    config = repr(model.config.replace(dropout_rate=0.0))
    return {'config': config, **leaves(model.params)}

  return Target(read, [directory / 'config.json'])


def huggingface_with_sums(hf_tiny, tmp_path, **_):
  target = huggingface(hf_tiny, tmp_path)
  directory = target.files[0].parent
  sha256sums.write(directory, ['model.safetensors'])
  return dataclasses.replace(target, header=None)


def t5x_native(t5x_tiny, tmp_path, **_):
  """A small index and two of its arrays; every byte that is read."""
  source = t5x_tiny / 't5_1_1_tiny' / 'checkpoint_0'
  content = msgpack.unpackb(
    (source / 'checkpoint').read_bytes(), strict_map_key=False
  )
  encoder = content['optimizer']['target']['encoder']
  content['optimizer'] = {
    'target': {
      'encoder': {
        'encoder_norm': encoder['encoder_norm'],
        'layers_1': {'mlp': {'wo': encoder['layers_1']['mlp']['wo']}},
      }
    }
  }
  directory = tmp_path / 'checkpoint_0'
  directory.mkdir()
  (directory / 'checkpoint').write_bytes(msgpack.packb(content))
  names = ('target.encoder.encoder_norm.scale',)
  names += ('target.encoder.layers_1.mlp.wo.kernel',)
  for name in names:
    shutil.copytree(source / name, directory / name)

  shapes = dict(from_t5x.open_checkpoint(directory).shapes)

  def read():
    checkpoint = from_t5x.open_checkpoint(directory)
    # As `from_t5x.read_params` compares a whole network's.
    param_trees.check_same(checkpoint.shapes, shapes, str(directory))
    return checkpoint.read(shapes)

  files = [path for path in directory.rglob('*') if path.is_file()]
  return Target(read, sorted(files))


def t5x_orbax(tmp_path, **_):
  """Its metadata; what flips in its data is found by SHA256SUMS alone."""
  random = np.random.default_rng(0)
  kernel = random.normal(size=(40, 30)).astype(np.float32)
  tree = {'target': {'kernel': kernel}, 'state': {'step': np.int32(3)}}
  t5x_files.write_orbax(tmp_path / 'run', 3, tree)
  shapes = {'target/kernel': (40, 30), 'state/step': ()}

  def read():
    checkpoint = from_t5x.open_checkpoint(tmp_path / 'run')
    param_trees.check_same(checkpoint.shapes, shapes, 'run')
    return checkpoint.read(shapes)

  state = tmp_path / 'run' / 'checkpoint_3' / 'state'
  return Target(read, [state / '_METADATA', state / 'manifest.ocdbt'])


def orbax(tmp_path, **_):
  random = np.random.default_rng(0)
  kernel = random.normal(size=(40, 30)).astype(np.float32)
  store = orbax_io.CheckpointStore(tmp_path / 'run')
  store.save(3, {'params': {'kernel': kernel}, 'step': np.int32(3)})
  store.close()
  files = [path for path in tmp_path.rglob('*') if path.is_file()]
  # The largest ones: arrays, their digests, and Orbax's metadata.
  files.sort(key=lambda path: path.stat().st_size)
  return Target(
    lambda: leaves(orbax_io.restore_params(tmp_path / 'run')), files[-4:]
  )


def sentencepiece(tmp_path, **_):
  path = tmp_path / 'spiece.model'
  shutil.copy(vocabulary.DEFAULT_PATH, path)
  sha256sums.write(tmp_path, [path.name])

  def read():
    sha256sums.check(tmp_path, [path.name])
    return {'ids': np.array(vocabulary.Tokenizer(path).encode('It returns.'))}

  return Target(read, [path])


def model_folder(hf_tiny, tmp_path, **_):
  model = from_huggingface.load(hf_tiny / 't5_v1_1_tiny')
  info = bundle.BundleInfo('', {'inputs': 8, 'targets': 8})
  path = vocabulary.DEFAULT_PATH
  bundle.save_bundle(tmp_path / 'b', model.params, model.config, info, path)
  directory = tmp_path / 'b'
  files = [directory / bundle.PARAMS_FILE, directory / bundle.VOCABULARY_FILE]
  return Target(lambda: leaves(load.load_model(directory).params), files)


TARGETS = (
  huggingface,
  huggingface_config,
  huggingface_with_sums,
  t5x_native,
  t5x_orbax,
  orbax,
  sentencepiece,
  model_folder,
)


# --- how they are damaged -----------------------------------------------------


def spread(length, number=PLACES):
  """First, last and places between, not all at multiples of eight."""
  places = {0, 1, 7, 8, 9, length - 1}
  places |= {int(x) for x in np.linspace(0, length - 1, number)}
  return sorted(x for x in places if 0 <= x < length)


def damages(content, header):
  """Names and damaged copies."""
  length = len(content)
  for place in spread(length):
    yield f'cut to {place} bytes', content[:place]
  for number in (1, 8, 1000):
    yield f'{number} bytes longer', content + b'\x41' * number
  yield 'all zero', bytes(length)
  for place in spread(min(header or length, length)):
    for bits in (0x01, 0x10, 0xFF):
      flipped = bytearray(content)
      flipped[place] ^= bits
      yield f'byte {place} ^ {bits:#x}', bytes(flipped)
  if header:
    for size in (0, header, length - 7, 2**31, 2**63 - 1, 2**64 - 1):
      start = size.to_bytes(8, 'little')
      yield f'a header of {size} bytes', start + content[8:]


def same(found, expected):
  return found.keys() == expected.keys() and all(
    np.array_equal(found[name], expected[name]) for name in expected
  )


@pytest.mark.parametrize('make', TARGETS, ids=lambda make: make.__name__)
def test_damage_is_refused_or_harmless(make, hf_tiny, t5x_tiny, tmp_path):
  target = make(hf_tiny=hf_tiny, t5x_tiny=t5x_tiny, tmp_path=tmp_path)
  expected = target.read()
  refused, wrong = 0, []
  for path in target.files:
    content = path.read_bytes()
    for what, damaged in damages(content, target.header):
      path.write_bytes(damaged)
      try:
        if not same(target.read(), expected):
          wrong.append(f'{path.name}: {what}')
      except errors.DataError as error:
        assert str(error)
        refused += 1
    path.write_bytes(content)
  assert not wrong
  assert refused >= PLACES * len(target.files) / 2
  assert same(target.read(), expected)


def test_a_lost_file_is_refused(hf_tiny, t5x_tiny, tmp_path):
  target = t5x_native(t5x_tiny, tmp_path)
  for path in target.files:
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(errors.DataError):
      target.read()
    path.write_bytes(content)
