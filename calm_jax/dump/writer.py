"""Writes a dump in one go: npz shards and, last, the manifest.

Where a run takes long, `dump.runner` fills a `partial.PartialDump` instead,
which the next run can take up. The same data give the same bytes. NumPy only.
"""

import os
from collections.abc import Iterable

from calm_jax.dump import partial, shards
from calm_jax.records import contracts


def write_dump(
  directory: str | os.PathLike,
  header: contracts.Manifest,
  batches: Iterable[contracts.Dump],
  *,
  overwrite: bool = False,
) -> contracts.Manifest:
  """Writes `batches`, one shard each, completely or not at all.

  Args:
    directory: where the dump will be.
    header: a manifest without shards.
    batches: arrays of the header's sizes.
    overwrite: whether a complete dump there may be replaced.

  Returns:
    The manifest of the complete dump.

  Raises:
    DataError: as `partial.PartialDump`, or a batch does not fit the header.
    ResourceError: the directory cannot be written.
  """
  job = partial.Job(
    header=header,
    examples_digest='',
    examples_per_shard=1,
    thresholds_per_pass=len(header.thresholds),
    rows=1,
  )
  with partial.PartialDump(
    directory, job, overwrite=overwrite, restart=True
  ) as unfinished:
    try:
      for index, batch in enumerate(batches):
        shards.check_fits(header, batch, 'The batch')
        unfinished.put(index, batch)
      return unfinished.complete(len(header.thresholds), header.stopped)
    except BaseException:
      unfinished.discard()
      raise
