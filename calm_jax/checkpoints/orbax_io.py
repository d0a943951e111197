"""Saving and restoring training state with Orbax.

    training.loop --tree of arrays--> MODEL_DIR/checkpoint_N/{state,digests}

A checkpoint appears under its final name in one rename, digests included. On
restore, names, shapes and types are compared before anything is read, and each
array's sha256 after it.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from calm_jax import errors
from calm_jax.checkpoints import digests, finding, param_trees
from calm_jax.parallel import partitioning
from calm_jax.records import json_records

# In the name that Orbax gives a checkpoint until it is complete.
_UNFINISHED = '.orbax-checkpoint-tmp'
_DIGESTS = 'digests'
# The operating system's words in tensorstore's messages.
_OS_ERROR = re.compile(r"([^:]*) \[os_error_code='\d+'|RESOURCE_EXHAUSTED")


@dataclasses.dataclass(frozen=True)
class _Pinned(policies.PreservationPolicy):
  """Keeps what the user marked with a file of T5X's name."""

  directory: pathlib.Path

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    return [
      (self.directory / f'checkpoint_{info.step}' / 'PINNED').is_file()
      for info in checkpoints
    ]


class CheckpointStore:
  """The checkpoints of one run: `directory/checkpoint_<step>`.

  Attributes:
    directory: where they are; created if it does not exist.
  """

  def __init__(self, directory: str | os.PathLike, keep: int | None = None):
    """Opens the store and removes what an interrupted save left behind.

    Args:
      directory: MODEL_DIR.
      keep: how many of the newest checkpoints stay; None keeps all. One that
        holds a file PINNED, as in T5X, stays too.

    Raises:
      ConfigError: the directory is not on this machine.
      ResourceError: the directory cannot be made or written to.
    """
    # A Path has only one of the slashes left.
    if any(part.endswith(':') for part in pathlib.Path(directory).parts):
      raise errors.ConfigError(
        f'MODEL_DIR must be a local folder, got {os.fspath(directory)!r}; copy'
        ' it to a bucket with gcloud storage rsync, or mount the bucket'
        ' (gcsfuse).'
      )
    self.directory = pathlib.Path(directory).expanduser().absolute()
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(
        [policies.LatestN(keep), _Pinned(self.directory)]
      ),
      step_prefix='checkpoint',
      create=True,
      enable_async_checkpointing=False,
    )
    try:
      self._remove_unfinished()
      self._manager = ocp.CheckpointManager(self.directory, options=options)
    except OSError as error:
      raise errors.ResourceError(
        f'Cannot keep checkpoints in {self.directory}: '
        f'{error.strerror or error}. Choose a directory that you may write to.'
      ) from error

  def _remove_unfinished(self) -> None:
    # Orbax's own clean-up returns before it is done, or fails unseen.
    if jax.process_index() == 0:
      for leftover in self.directory.glob(f'checkpoint_*{_UNFINISHED}*'):
        shutil.rmtree(leftover)

  def save(self, step: int, tree: Any) -> None:
    """Saves a tree of arrays; returns once it has its final name.

    All processes of a run call it; the first one writes.

    Raises:
      ConfigError: there is a checkpoint of this step already.
      ResourceError: the disk is full or refuses; earlier checkpoints stay.
    """
    if step in self.all_steps():
      raise errors.ConfigError(
        f'{self.directory} already holds checkpoint_{step}; delete it or choose'
        ' a new MODEL_DIR.'
      )
    # Copies, because the caller's next step may donate these buffers; whole
    # arrays, so that any number of devices can restore them.
    tree = partitioning.to_host(tree)
    description = {
      'schema_version': json_records.SCHEMA_VERSION,
      'arrays': digests.describe(param_trees.flatten(tree)),
    }
    items = {
      finding.STATE: ocp.args.PyTreeSave(tree),
      _DIGESTS: ocp.args.JsonSave(description),
    }
    try:
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    except (OSError, ValueError) as error:
      # tensorstore reports a full disk, a quota and the like as a ValueError.
      refused = _OS_ERROR.search(str(error))
      if isinstance(error, ValueError) and not refused:
        raise
      reason = refused[1] if refused and refused[1] else _first_line(error)
      raise errors.ResourceError(
        f'Cannot save checkpoint_{step} in {self.directory}: {reason.strip()}.'
        ' Free space; earlier checkpoints are kept.'
      ) from error

  def all_steps(self) -> tuple[int, ...]:
    """The saved steps, ascending."""
    return tuple(sorted(self._manager.all_steps()))

  def latest_step(self) -> int | None:
    """The newest saved step, or None."""
    return self._manager.latest_step()

  def restore(self, step: int, template: Any) -> Any:
    """Reads the checkpoint of one step.

    Args:
      step: one of `all_steps`.
      template: a tree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      NumPy arrays in the structure of `template`.

    Raises:
      DataError: there is no such checkpoint, it holds other arrays than the
        template, or it is damaged.
    """
    checkpoint = finding.find_checkpoint(self.directory / f'checkpoint_{step}')
    described = _read_digests(checkpoint)
    param_trees.check_same(
      {name: _signature(fields) for name, fields in described.items()},
      {
        name: f'{leaf.dtype}{list(leaf.shape)}'
        for name, leaf in param_trees.flatten(template).items()
      },
      str(checkpoint),
    )
    return _read(checkpoint, template, described)

  def close(self) -> None:
    """Releases Orbax's threads."""
    self._manager.close()


def restore_params(path: str | os.PathLike) -> dict[str, Any]:
  """Reads only the parameters of a training checkpoint.

  Args:
    path: as for `finding.find_checkpoint`.

  Returns:
    Nested dict of NumPy arrays.

  Raises:
    DataError: there is no checkpoint, or it is damaged or not one of training.
  """
  checkpoint = finding.find_checkpoint(path)
  described = {
    name: fields
    for name, fields in _read_digests(checkpoint).items()
    if name.startswith('params/')
  }
  if not described:
    raise errors.DataError(
      f'{checkpoint} holds no parameters (no array under params/).'
    )
  template = param_trees.unflatten(
    {name: _array_of(fields) for name, fields in described.items()}
  )
  return _read(checkpoint, template, described)['params']


def is_foreign(checkpoint: pathlib.Path) -> bool:
  """Whether Orbax's layout is there, but none of our digests: T5X's, say."""
  return (checkpoint / finding.STATE / '_METADATA').is_file() and not (
    checkpoint / _DIGESTS
  ).is_dir()


def read_metadata(checkpoint: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and type of each array of a foreign checkpoint, by name.

  Raises:
    DataError: its metadata is damaged.
  """
  try:
    with _quiet_orbax(), _checkpointer() as checkpointer:
      metadata = checkpointer.metadata(checkpoint / finding.STATE)
    return {
      name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
      for name, leaf in param_trees.flatten(metadata.item_metadata.tree).items()
    }
  except Exception as error:  # Orbax lets many types through.
    logging.debug('Orbax could not read %s', checkpoint, exc_info=True)
    raise finding.damaged(checkpoint, _first_line(error)) from error


def _read(
  checkpoint: pathlib.Path, template: Any, described: Mapping[str, Any]
) -> Any:
  tree = read_arrays(checkpoint, template)
  if wrong := digests.different(param_trees.flatten(tree), described):
    raise finding.damaged(
      checkpoint,
      f'the sha256 of {", ".join(wrong[:5])} differs from the one written at'
      ' saving',
    )
  return tree


def read_arrays(checkpoint: pathlib.Path, template: Any) -> Any:
  """Arrays of a checkpoint in the structure of `template`, not verified.

  Raises:
    DataError: they cannot be read, or have other shapes.
  """
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  restore = ocp.args.PyTreeRestore(
    item=template,
    restore_args=jax.tree.map(lambda _: as_numpy, template),
    partial_restore=True,
  )
  try:
    with _quiet_orbax(), _checkpointer() as checkpointer:
      tree = checkpointer.restore(checkpoint / finding.STATE, args=restore)
  except Exception as error:  # Orbax lets many types through.
    logging.debug('Orbax could not read %s', checkpoint, exc_info=True)
    raise finding.damaged(checkpoint, _first_line(error)) from error
  arrays = param_trees.flatten(tree)
  for name, leaf in param_trees.flatten(template).items():
    found = arrays[name]
    # Orbax leaves the template where the checkpoint has no such array.
    if not isinstance(found, np.ndarray | np.generic):
      raise finding.damaged(checkpoint, f'it has no array {name}')
    if (found.shape, found.dtype) != (tuple(leaf.shape), leaf.dtype):
      raise finding.damaged(checkpoint, f'{name} is {found.dtype}{found.shape}')
  return tree


def _checkpointer() -> ocp.Checkpointer:
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Drops its warning that an item has no metadata of a whole checkpoint."""

  def is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith('Metadata file does not exist')

  logger = logging.getLogger('absl')
  logger.addFilter(is_news)
  try:
    yield
  finally:
    logger.removeFilter(is_news)


def _read_digests(checkpoint: pathlib.Path) -> dict[str, dict[str, Any]]:
  # Orbax's JSON handler names its file so.
  path = checkpoint / _DIGESTS / 'metadata'
  if not path.is_file():
    raise errors.DataError(
      f'{checkpoint} was not written by calm_jax, or not completely: it has no'
      f' {_DIGESTS}/metadata.'
    )
  content = json_records.read_json(path)
  try:
    json_records.check_schema_version(content['schema_version'], str(path))
    for fields in content['arrays'].values():
      _array_of(fields), fields['sha256']
    return content['arrays']
  except (AttributeError, KeyError, TypeError) as error:
    detail = f'{_DIGESTS}/{path.name}: {error!r}'
    raise finding.damaged(checkpoint, detail) from error


def _array_of(fields: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(fields['shape'], fields['dtype'])


def _signature(fields: Mapping[str, Any]) -> str:
  return f'{fields["dtype"]}{list(fields["shape"])}'


def _first_line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
