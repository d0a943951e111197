"""Models in a bucket: gs://bucket/... is copied to this machine and read there.

Reading whole files once is what a bucket is good at, and what every reader here
then does on local files, checks of sha256 included. The copy lasts as long as
the process. `etils.epath` does the transfer, through TensorFlow's file systems
or gcsfs, with the machine's own credentials.
"""

import contextlib
import functools
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator

from etils import epath

from calm_jax import errors
from calm_jax.checkpoints import finding

# Weights in formats that are not read, and state that goes with no parameters.
_LEFT_OUT = ('.bin', '.h5', '.msgpack', '.ot', '.onnx')


def is_remote(path: str | os.PathLike | None) -> bool:
  """Whether a path names something that is not on this machine."""
  return path is not None and '://' in os.fspath(path)


def local(path: str | os.PathLike, with_state: bool = False) -> pathlib.Path:
  """A local path to the same model; a remote one is copied first.

  Args:
    path: any path that `load.load_model` takes, local or remote. Of a remote
      MODEL_DIR the newest checkpoint is copied.
    with_state: whether to copy T5X's accumulators too, where these are files
      of their own.

  Returns:
    An absolute path.

  Raises:
    DataError: there is nothing at a remote path.
    ResourceError: it cannot be read, for lack of permission or connection.
  """
  if not is_remote(path):
    return pathlib.Path(path).expanduser().absolute()
  return _copied(os.fspath(path).rstrip('/'), with_state)


@functools.cache
def _copied(url: str, with_state: bool) -> pathlib.Path:
  with _explained(url):
    source = _path(url)
    if not source.exists():
      raise errors.DataError(
        f'There is nothing at {url}; look at it with gcloud storage ls.'
      )
    source = _newest_checkpoint(source)
    target = pathlib.Path(_folder().name) / f'{len(os.listdir(_folder().name))}'
    target /= source.name
    logging.warning('Copying %s to %s', source, target)
    _copy(source, target, with_state)
  return target


def _path(url: str) -> epath.Path:
  return epath.Path(url)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
  # Deleted when Python ends.
  return tempfile.TemporaryDirectory(prefix='calm_jax_')


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
  try:
    yield
  except errors.CalmError:
    raise
  except Exception as error:  # each file system has its own kinds
    first_line = (str(error) or type(error).__name__).splitlines()[0][:300]
    raise errors.ResourceError(
      f'{url} cannot be read ({type(error).__name__}: {first_line}). This'
      ' machine needs permission to read the bucket (gcloud auth'
      ' application-default login) and TensorFlow or gcsfs; or copy it here:'
      f' gcloud storage cp -r {url} .'
    ) from error


def _newest_checkpoint(source: epath.Path) -> epath.Path:
  steps = {
    step: child
    for child in source.iterdir()
    if (step := finding.step_of(child.name.rstrip('/'))) is not None
  }
  return steps[max(steps)] if steps else source


def _copy(source: epath.Path, target: pathlib.Path, with_state: bool) -> None:
  target.mkdir(parents=True)
  for child in source.iterdir():
    if child.name.endswith(_LEFT_OUT):
      continue
    if child.name.startswith('state.') and not with_state:
      continue
    if child.is_dir():
      _copy(child, target / child.name, with_state)
    else:
      (target / child.name).write_bytes(child.read_bytes())
