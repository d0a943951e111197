"""Many devices, and several processes, equal one device."""

import os
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from calm_jax import errors
from calm_jax.cli import main
from calm_jax.parallel import multihost, partitioning

pytestmark = pytest.mark.slow

# Compiling is most of the time.
QUICKLY = '--xla_backend_optimization_level=0'


def start(module, *args, cache, devices=1):
  """A program of its own: devices are counted before JAX starts."""
  flags = f'{QUICKLY} --xla_force_host_platform_device_count={devices}'
  return subprocess.Popen(
    [sys.executable, '-m', f'testing.{module}', *map(str, args)],
    env={
      **os.environ,
      'XLA_FLAGS': flags,
      'PYTHONPATH': 'tests',
      # For steps that are compiled again after a resume.
      'JAX_COMPILATION_CACHE_DIR': os.fspath(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Holds the runs of `eight_devices`."""
  folder = tmp_path_factory.mktemp('devices')
  program = start('eight_devices', folder, cache=folder / 'cache', devices=8)
  printed, complaints = program.communicate(timeout=600)
  assert program.returncode == 0, complaints
  (folder / 'printed').write_text(printed)
  return folder


@pytest.mark.parametrize('what', ['stage 1 is', 'stage 2 is', 'tokens are'])
def test_eight_devices_equal_one(folder, what):
  assert f'{what} the same' in (folder / 'printed').read_text()


def two_processes(scene, folder):
  """Runs both; returns [(exit code, stderr)]."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  programs = [
    start('two_processes', scene, index, port, folder, cache=folder / 'cache')
    for index in (0, 1)
  ]
  complaints = [program.communicate(timeout=600)[1] for program in programs]
  codes = [program.returncode for program in programs]
  return list(zip(codes, complaints, strict=True))


def test_fault_61_two_processes_train_as_one(folder):
  from testing import eight_devices

  together = folder / 'together'
  eight_devices.from_checkpoint(folder / 'one', together)
  survivor, lost = two_processes('train', together)
  assert (survivor[0], lost[0]) == (4, 9), survivor[1] + lost[1]
  assert "during the phase 'comparing step 7'" in survivor[1]
  expected = eight_devices.metrics(folder / 'one')
  found = eight_devices.metrics(together)
  eight_devices.assert_same(found, expected, (3, 4, 5))
  expected = eight_devices.metrics(folder / 'one', 'training_eval')
  found = eight_devices.metrics(together, 'training_eval')
  eight_devices.assert_same(found, expected, (5,))
  # Stopped by a signal to process 1 after step 3, seen one step later.
  steps = sorted(path.name for path in together.glob('checkpoint_*'))
  assert steps == ['checkpoint_2', 'checkpoint_4', 'checkpoint_5']


def test_fault_60_the_loss_of_the_coordinator_is_exit_code_4(tmp_path):
  lost, survivor = two_processes('lose', tmp_path)
  assert (lost[0], survivor[0]) == (9, 4), survivor[1]
  assert 'calm: error: Another process has gone' in survivor[1]


def devices(count):
  return [types.SimpleNamespace(id=i) for i in range(count)]


@pytest.mark.parametrize('num_partitions', [3, 16, 0, 2.0])
def test_fault_49_num_partitions_must_divide_the_devices(num_partitions):
  with pytest.raises(errors.ConfigError, match='which is 8.*Valid: 1, 2, 4, 8'):
    partitioning.PjitPartitioner(num_partitions, devices=devices(8))


@pytest.mark.parametrize(
  ('size', 'nearest'), [(6, '4 or 8'), (3, '4'), (13, '12 or 16')]
)
def test_fault_48_the_batch_must_divide(size, nearest):
  partitioner = partitioning.PjitPartitioner(devices=jax.devices()[:1])
  partitioner.mesh = types.SimpleNamespace(
    size=8, shape={'data': 4, 'model': 2}
  )
  with pytest.raises(errors.ConfigError, match=f'BATCH_SIZE: {nearest}\\.'):
    partitioner.put_batch({'encoder_input_tokens': np.zeros((size, 2))})


@pytest.mark.parametrize(
  ('rows', 'shard_of_host_3', 'num_shards'),
  [
    # Each letter is a host with two devices; a row holds one copy of the model.
    ('0 0 1 1 2 2 3 3', 3, 4),
    ('00 11 22 33', 3, 4),
    ('0011 2233', 1, 2),
    ('00112233', 0, 1),
    ('01 10 23 32', 1, 2),
    ('0 12 13 3', 0, 1),  # No two shares of the same size: all read all.
  ],
)
def test_hosts_share_the_data(rows, shard_of_host_3, num_shards, monkeypatch):
  partitioner = partitioning.PjitPartitioner(devices=jax.devices()[:1])
  partitioner.mesh = types.SimpleNamespace(
    devices=[
      [types.SimpleNamespace(process_index=int(host)) for host in row]
      for row in rows.split()
    ]
  )
  monkeypatch.setattr(jax, 'process_index', lambda: 3)
  layout = partitioner.get_data_layout()
  assert layout == partitioning.DataLayout(shard_of_host_3, num_shards)


def test_the_rules_are_t5xs():
  """Spelled out from t5x.partitioning, for the axes of our parameters."""
  rules = dict(partitioning.standard_logical_axis_rules())
  assert rules['batch'] == 'data'
  for axis in ('vocab', 'mlp', 'heads', 'joined_kv'):
    assert rules[axis] == 'model'
  for axis in ('embed', 'kv', 'relpos_buckets', 'layers', 'stack'):
    assert rules[axis] is None
  two = partitioning.standard_logical_axis_rules(2, 2)
  assert [mesh for axis, mesh in two if axis == 'embed'] == ['model', 'data']
  with pytest.raises(errors.ConfigError, match='1 or 2, got 3'):
    partitioning.standard_logical_axis_rules(3)


@pytest.mark.parametrize(
  'flags',
  [
    [],
    ['--coordinator_address=here', '--process_count=2', '--process_index=0'],
    ['--coordinator_address=a:1', '--process_count=2', '--process_index=2'],
    ['--coordinator_address=a:1', '--process_index=0'],
  ],
)
def test_incomplete_flags_of_several_processes(flags, capsys):
  args = ['train', '--gin_file=gin/experiments/tiny.gin', '--multiprocess_gpu']
  assert main.main([*args, *flags]) == 2
  assert '--multiprocess_gpu requires' in capsys.readouterr().err


def test_one_process_agrees_with_itself():
  multihost.assert_same({'configuration': 'a'}, '')
  multihost.barrier('nobody to wait for')
  agreement = multihost.StopAgreement()
  assert [agreement.reached(wish) for wish in (False, True)] == [False, True]
