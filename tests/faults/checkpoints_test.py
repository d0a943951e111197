"""Models that are missing, damaged or another's: exit code 3, by command."""

import json
import shutil

import pytest

from calm_jax.checkpoints import bundle

TINY = '--gin_file=gin/experiments/tiny.gin'


@pytest.fixture
def convert_fails(fails, tmp_path):
  """Runs `calm convert`, which must write nothing."""

  def call(path, *args):
    flags = f'--model={path}', f'--output_dir={tmp_path}/out'
    message = fails(3, 'convert', *flags, *args)
    assert not (tmp_path / 'out').exists()
    return message

  return call


@pytest.fixture
def huggingface(hf_tiny, tmp_path):
  return shutil.copytree(hf_tiny / 't5_v1_1_tiny', tmp_path / 'hf')


def test_fault_26_the_folder_above(fails, tmp_path):
  for step in (5, 10):
    (tmp_path / 'runs' / 'mine' / f'checkpoint_{step}').mkdir(parents=True)
  output = f'--output_dir={tmp_path}/out'
  message = fails(3, 'export', TINY, f'--model={tmp_path}/runs', output)
  assert 'mine (checkpoint_5, checkpoint_10)' in message
  path = tmp_path / 'runs' / 'mine' / 'checkpoint_7'
  message = fails(3, 'export', TINY, f'--model={path}', output)
  assert 'it does not exist' in message and 'checkpoint_10' in message


def test_fault_33_a_checkpoint_of_mesh_tensorflow(convert_fails, tmp_path):
  folder = tmp_path / 'mesh'
  folder.mkdir()
  (folder / 'model.ckpt-1000.index').write_bytes(b'')
  (folder / 'checkpoint').write_text('model_checkpoint_path: "x"')
  message = convert_fails(folder, '--gin_file=gin/models/t5_1_1_tiny.gin')
  assert 'Mesh TensorFlow' in message and 'convert_tf_checkpoint' in message


def test_fault_34_pickled_weights(convert_fails, huggingface):
  (huggingface / 'model.safetensors').unlink()
  (huggingface / 'pytorch_model.bin').write_bytes(b'\x80\x04\x95never read')
  message = convert_fails(huggingface)
  assert 'safetensors' in message and '.bin' in message


def test_fault_35_another_architecture(convert_fails, huggingface):
  config = json.loads((huggingface / 'config.json').read_text())
  config['model_type'] = 'bart'
  (huggingface / 'config.json').write_text(json.dumps(config))
  message = convert_fails(huggingface)
  assert 'model_type' in message and "'bart'" in message


@pytest.mark.parametrize('header', [b'\xff' * 8, b'\x10\0\0\0\0\0\0\0{"a":'])
def test_fault_36_a_header_that_cannot_be(header, convert_fails, huggingface):
  path = huggingface / 'model.safetensors'
  path.write_bytes(header + path.read_bytes()[8:40])
  message = convert_fails(huggingface)
  assert 'model.safetensors' in message and ' bytes: ' in message


@pytest.mark.parametrize('name', [bundle.PARAMS_FILE, bundle.VOCABULARY_FILE])
def test_fault_31_a_flipped_bit_of_a_model_folder(name, fails, tmp_path):
  folder = shutil.copytree(bundle.default_bundle_path(), tmp_path / 'model')
  content = bytearray((folder / name).read_bytes())
  content[len(content) // 2] ^= 1
  (folder / name).write_bytes(content)
  message = fails(3, 'generate', f'--model={folder}', 'a text')
  assert name in message and 'sha256' in message and 'copy the' in message
