"""Settings that must stand before JAX or TensorFlow is first imported.

Also the files in testdata/ that several tests read.
"""

import os
import pathlib
import sys
import tarfile

import pytest
from testing import shapes

TESTDATA = pathlib.Path(__file__).parent / 'testdata'

# A test compares float32 numbers made on one kind of machine; set
# JAX_PLATFORMS yourself to run the tests on another.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# TensorFlow only reads data here; it must not take an accelerator's memory.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
# Most of the time goes into compiling programs that then run for milliseconds.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
# Figures are written, never shown.
os.environ.setdefault('MPLBACKEND', 'agg')

shapes.install()


@pytest.fixture(autouse=True)
def forgotten_gin():
  """What a test binds in gin would hold for every later one's objects."""
  yield
  if (gin := sys.modules.get('gin')) is not None:
    gin.clear_config()


@pytest.fixture(autouse=True, scope='module')
def forgotten_programs():
  """Thousands of compiled programs in one process end in a segmentation fault:
  each takes a few of the mappings that the system allows it."""
  yield
  if (jax := sys.modules.get('jax')) is not None:
    jax.clear_caches()


@pytest.fixture(scope='session')
def t5x_tiny(tmp_path_factory) -> pathlib.Path:
  """T5X's native checkpoints of two tiny networks, and what T5X computes."""
  directory = tmp_path_factory.mktemp('t5x')
  with tarfile.open(TESTDATA / 't5x_tiny.tgz') as archive:
    archive.extractall(directory, filter='data')
  return directory / 't5x_tiny'


@pytest.fixture(scope='session')
def hf_tiny() -> pathlib.Path:
  """Hugging Face directories of two tiny networks, and what torch computes."""
  return TESTDATA / 'hf_tiny'
