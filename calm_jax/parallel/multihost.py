"""Several processes that train as one: start, agree, and end together.

    initialize --> assert_same --> phases of work --> leave

Process 0 writes; all of them read. Where one is lost, the others end with exit
code 4 and the name of the phase in which they missed it.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost as orbax_multihost

from calm_jax import errors

# What XLA's messages hold where a peer is at fault.
_LOST = (
  'Gloo',
  'NCCL',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'ABORTED',
  'CANCELLED',
  'coordination service',
)
_SECONDS_TO_LEAVE = 20


class LostPeerError(errors.ResourceError):
  """Another process of the run cannot be reached any more."""


def is_writer() -> bool:
  """Whether this process writes what all have made."""
  return jax.process_index() == 0


def is_multiprocess() -> bool:
  """Whether others take part in the run."""
  return jax.process_count() > 1


def initialize(
  coordinator_address: str | None,
  process_count: int | None,
  process_index: int | None,
  initialization_timeout: int | None = None,
) -> None:
  """Joins the processes that T5X's flags describe, before JAX is used.

  Args:
    coordinator_address: HOST:PORT where process 0 listens.
    process_count: of the whole run.
    process_index: of this one, from 0.
    initialization_timeout: seconds to wait for the others; JAX's 300 if None.

  Raises:
    ConfigError: a value is missing or out of range.
    ResourceError: the others do not come, or the port is taken.
  """
  _check(coordinator_address, process_count, process_index)
  options = (
    {}
    if initialization_timeout is None
    else {'initialization_timeout': initialization_timeout}
  )
  _phase.name = 'start'
  # `training.signals` handles SIGTERM.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address, process_count, process_index, **options
    )
  except RuntimeError as error:
    raise errors.ResourceError(
      f'Process {process_index} could not join the {process_count} processes at'
      f' {coordinator_address}: {_first_line(error)}. All must be started, with'
      ' the same address and count.'
    ) from error
  _end_with_code_4_on_abort()


def initialize_on_tpu() -> None:
  """Joins the hosts of a Cloud TPU, where there is one; JAX finds the rest.

  Where Google's metadata cannot be read, it warns and goes on: the TPU's own
  runtime may do without. Never run on a real TPU.
  """
  if not _has_tpu():
    return
  try:
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize()
  except (RuntimeError, ValueError) as error:
    logging.warning(
      'jax.distributed.initialize failed (%s); going on without.',
      _first_line(error),
    )
    return
  _end_with_code_4_on_abort()


def assert_same(values: Mapping[str, bytes | str], advice: str) -> None:
  """Refuses to go on where processes differ.

  Args:
    values: what must be the same everywhere -> its content.
    advice: how to mend a difference, as a sentence.

  Raises:
    ResourceError: on all processes alike; names what differs and where.
  """
  if not is_multiprocess():
    return
  mine = np.stack([_digest(content) for content in values.values()])
  with phase(f'comparing {", ".join(values)}'):
    everyones = np.asarray(multihost_utils.process_allgather(mine))
  for position, name in enumerate(values):
    digests = everyones[:, position]
    odd = np.flatnonzero((digests != digests[0]).any(axis=-1))
    if odd.size:
      raise errors.ResourceError(
        f'All processes must have the same {name}; processes'
        f' {", ".join(map(str, odd))} of {len(digests)} differ from process 0.'
        f' {advice}'
      )


def versions() -> dict[str, str]:
  """Versions that must be the same on all hosts."""
  return {
    f'version of {name}': importlib.metadata.version(name)
    for name in ('calm_jax', 'jax', 'flax', 'optax')
  }


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
  """Names what is being done while the block lasts.

  Raises:
    LostPeerError: another process has gone meanwhile.
  """
  before, _phase.name = _phase.name, name
  try:
    yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    if not _is_lost_peer(error):
      raise
    raise LostPeerError(_lost_message(_first_line(error))) from error
  _phase.name = before


def barrier(name: str, seconds: int = 600) -> None:
  """Waits until all processes have come here.

  Args:
    name: of the phase that ends here.
    seconds: to wait at most.

  Raises:
    LostPeerError: some did not come in time.
  """
  if not is_multiprocess():
    return
  with phase(name):
    wait = orbax_multihost.get_barrier_sync_fn()
    wait(key=f'calm {name}', timeout_ms=seconds * 1000)


class StopAgreement:
  """Lets all processes stop after the same step, whichever is asked to.

  Every process votes at every step, and reads the votes of the step before,
  which have arrived by then: none waits.
  """

  def __init__(self):
    self._votes = None
    if is_multiprocess():
      mesh = Mesh(np.array(jax.devices()), ('all',))
      self._votes_sharding = NamedSharding(mesh, PartitionSpec('all'))
      self._any = jax.jit(
        lambda votes: votes.any(),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
      )

  def reached(self, wish: bool) -> bool:
    """Whether to stop now; called by all once a step, with one's own wish."""
    if not is_multiprocess():
      return wish
    before = self._votes
    self._votes = self._any(
      jax.make_array_from_callback(
        (jax.device_count(),), self._votes_sharding, lambda _: np.array([wish])
      )
    )
    return before is not None and bool(before)


@contextlib.contextmanager
def leaving_together(exit_now: Callable[[int], None] = os._exit):
  """Ends the process at once where the others cannot be waited for.

  A run that fails everywhere leaves in order, and each process keeps its exit
  code. One that fails alone must not wait for the others, who wait for it.
  """
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if not is_multiprocess() or _others_leave_too(error):
      raise
    if isinstance(error, errors.CalmError):
      print(f'calm: error: {error}', file=sys.stderr)
    else:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    exit_now(getattr(error, 'exit_code', 1))


def _others_leave_too(error: BaseException) -> bool:
  if isinstance(error, (LostPeerError, KeyboardInterrupt)):
    return False
  try:
    barrier('leaving after an error', _SECONDS_TO_LEAVE)
  except (LostPeerError, RuntimeError):
    return False
  return True


class _Phase:
  """What this process does now; read by the handler of aborts."""

  name = 'start'


_phase = _Phase()


def _is_lost_peer(error: Exception) -> bool:
  return is_multiprocess() and any(word in str(error) for word in _LOST)


def _lost_message(detail: str) -> str:
  return (
    'Another process has gone, or cannot be reached, during the phase'
    f' {_phase.name!r} (this is process {jax.process_index()} of'
    f' {jax.process_count()}; {detail}). Look at the logs of the others. The'
    ' same commands resume from the newest checkpoint.'
  )


# Kept, or ctypes would free the handler under the signal.
_handlers: list = []


def _end_with_code_4_on_abort() -> None:
  """Turns XLA's abort after the loss of a peer into an error of ours.

  Its client of the coordination service calls abort() in a thread of its own
  as soon as the service, or the heartbeat of a process, is missed. Python's own
  handlers never run then: they wait for the main thread.
  """

  def handler(number):
    del number
    message = _lost_message('the coordination service reports an error')
    os.write(2, f'calm: error: {message}\n'.encode())
    os._exit(errors.ResourceError.exit_code)

  kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
  _handlers.append(kind(handler))
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal(int(signal.SIGABRT), _handlers[-1])


def _check(coordinator_address, process_count, process_index) -> None:
  if not coordinator_address or ':' not in coordinator_address:
    raise errors.ConfigError(
      '--multiprocess_gpu requires --coordinator_address=HOST:PORT, where'
      f' process 0 listens, got {coordinator_address!r}.'
    )
  if process_count is None or process_count < 1:
    raise errors.ConfigError(
      '--multiprocess_gpu requires --process_count of at least 1, got'
      f' {process_count!r}.'
    )
  if process_index is None or not 0 <= process_index < process_count:
    raise errors.ConfigError(
      '--multiprocess_gpu requires --process_index from 0 to'
      f' {process_count - 1}, got {process_index!r}.'
    )


def _has_tpu() -> bool:
  """Whether JAX will use a TPU; asking JAX itself would start it too early."""
  platforms = os.environ.get('JAX_PLATFORMS', 'tpu')
  if 'tpu' not in platforms or importlib.util.find_spec('libtpu') is None:
    return False
  device_files = pathlib.Path('/dev')
  return any(device_files.glob('accel*')) or any(
    device_files.glob('vfio/[0-9]*')
  )


def _digest(content: bytes | str) -> np.ndarray:
  content = content.encode() if isinstance(content, str) else content
  return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def _first_line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
