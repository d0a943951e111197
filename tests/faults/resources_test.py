"""What the machine lacks: exit code 4."""

import errno
import os
import signal

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.checkpoints import orbax_io
from calm_jax.cli import machine_errors, report
from calm_jax.training import signals

TINY = '--gin_file=gin/experiments/tiny.gin'


@pytest.fixture
def stage_raises(fails, monkeypatch):
  """The line of a stage that meets this error."""

  def call(error):
    def run(args):
      raise error

    monkeypatch.setattr(report, 'run', run)
    return fails(4, 'report')

  return call


@pytest.mark.parametrize(
  'text',
  [
    "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by"
    ' process with pid 12\nand more',
    "Unable to initialize backend 'tpu': UNKNOWN: TPU initialization failed:"
    ' open(/dev/vfio/0): Device or resource busy',
  ],
)
def test_fault_50_the_accelerator_is_held_by_another_process(
  text, stage_raises
):
  message = stage_raises(RuntimeError(text))
  assert "asks for 'tpu'" in message and 'Another process holds it' in message
  assert 'JAX_PLATFORMS=cpu' in message and 'and more' not in message


def test_fault_50_no_accelerator(stage_raises):
  # What JAX itself says, whatever its version.
  with pytest.raises(RuntimeError) as caught:
    jax.devices('rocm')
  message = stage_raises(caught.value)
  assert "asks for 'rocm'" in message and 'calm doctor' in message


def test_fault_50_no_package_for_the_accelerator(stage_raises, monkeypatch):
  assert machine_errors.explained(AssertionError()) is None, 'our own mistake'

  def devices():
    raise AssertionError  # As jax 0.10 does for JAX_PLATFORMS=cuda without it.

  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  message = stage_raises(AssertionError())
  assert "asks for 'cuda'" in message and 'is missing' in message


@pytest.mark.parametrize(
  'text',
  [
    'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3221225472'
    ' bytes.\n[tf-allocator-allocation-error=...]',
    'RESOURCE_EXHAUSTED: Out of memory allocating 3221225472 bytes.',
  ],
)
def test_fault_51_the_device_s_memory_is_full(text, stage_raises):
  message = stage_raises(jax.errors.JaxRuntimeError(text))
  assert '3221225472 bytes more were asked for' in message
  assert '--batch_size' in message and 'NUM_MICROBATCHES' in message


def test_fault_51_the_machine_s_memory_is_full(stage_raises):
  with pytest.raises(MemoryError) as caught:
    np.empty(2**60, np.float32)
  message = stage_raises(caught.value)
  assert 'EiB' in message and '--batch_size' in message


@pytest.mark.parametrize(
  'error', [RuntimeError('our own mistake'), NotImplementedError()]
)
def test_a_mistake_is_not_taken_for_the_machine_s(error):
  assert machine_errors.explained(error) is None


@pytest.mark.parametrize('number', ['ENOSPC', 'EDQUOT', 'EROFS', 'EACCES'])
def test_fault_52_the_folder_refuses_before_training(
  number, short_corpus, fails, tmp_path, monkeypatch
):
  number = getattr(errno, number)

  def fsync(file):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, 'fsync', fsync)
  message = fails(4, 'train', TINY, f'--gin.MODEL_DIR="{tmp_path}/m"')
  assert f'Cannot write {tmp_path}/m/config.gin' in message
  assert os.strerror(number) in message and 'Free space' in message


@pytest.mark.parametrize(
  'error',
  [
    ValueError('RESOURCE_EXHAUSTED: Error writing: No space left\nand more'),
    OSError(errno.ENOSPC, 'No space left on device'),
  ],
)
def test_fault_52_a_full_disk_keeps_earlier_checkpoints(
  error, tmp_path, monkeypatch
):
  store = orbax_io.CheckpointStore(tmp_path)
  tree = {'a': np.arange(3.0)}
  store.save(1, tree)

  def save(*args, **kwargs):
    raise error

  monkeypatch.setattr(store._manager, 'save', save)
  with pytest.raises(errors.ResourceError, match='earlier checkpoints are k'):
    store.save(2, tree)
  np.testing.assert_array_equal(store.restore(1, tree)['a'], tree['a'])
  store.close()


def test_fault_54_the_second_signal_does_not_wait():
  # A shell's background jobs ignore it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with signals.StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received is signal.SIGINT, 'noted, and the step goes on'
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)


def test_fault_53_a_bucket_that_may_not_be_read(fails, monkeypatch):
  from calm_jax.checkpoints import remote

  def refuse(url):
    raise PermissionError('403: no storage.objects.list\nand much more')

  monkeypatch.setattr(remote, '_path', refuse)
  message = fails(4, 'convert', '--model=gs://a/b', '--output_dir=/tmp/unused')
  assert 'gs://a/b' in message and '403' in message
  assert 'permission' in message and 'gcloud storage cp' in message
