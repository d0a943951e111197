"""Installed Python files -> candidate sentences and summaries.

Sentences come from docstrings and comments, summaries from docstrings. First
step of the data flow: source files are parsed with `ast` and never
imported. Files are read by worker processes (`python -m
calm_jax.data.docstrings`, one chunk of paths each), so a caller needs no
`__main__` guard and may already run JAX threads.
"""

import ast
import concurrent.futures
import dataclasses
import inspect
import json
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence

import tqdm

from calm_jax import errors
from calm_jax.data import prose

_FILES_PER_CHUNK = 150
_MAX_BYTES = 2_000_000
_DOCUMENTED = (
  ast.Module,
  ast.ClassDef,
  ast.FunctionDef,
  ast.AsyncFunctionDef,
)


@dataclasses.dataclass(frozen=True)
class Extract:
  """What a set of files gave, in the order of the files.

  Attributes:
    sentences: clean sentences as written.
    summaries: (signature and rest of the docstring, first paragraph) pairs.
    files_read: files parsed.
    files_skipped: files too large, not UTF-8 or not valid Python.
  """

  sentences: tuple[str, ...]
  summaries: tuple[tuple[str, str], ...]
  files_read: int
  files_skipped: int


def extract(
  files: Sequence[pathlib.Path], *, num_workers: int | None = None
) -> Extract:
  """Reads `files` in worker processes and collects their prose.

  Raises:
    DataError: a worker process failed (a damaged file never makes it fail).
    ResourceError: no worker process can be started.
  """
  chunks = [
    files[i : i + _FILES_PER_CHUNK]
    for i in range(0, len(files), _FILES_PER_CHUNK)
  ]
  num_workers = num_workers or min(os.cpu_count() or 1, 8)
  parts = []
  with (
    concurrent.futures.ThreadPoolExecutor(num_workers) as pool,
    tqdm.tqdm(
      total=len(files), desc='Reading docstrings', unit='file'
    ) as progress,
  ):
    try:
      results = pool.map(_run_worker, chunks)
      for chunk, part in zip(chunks, results, strict=True):
        parts.append(part)
        progress.update(len(chunk))
    finally:
      # Ctrl-C and a failed chunk need not wait for all the others.
      pool.shutdown(wait=False, cancel_futures=True)
  return Extract(
    sentences=tuple(x for part in parts for x in part['sentences']),
    summaries=tuple((a, b) for part in parts for a, b in part['summaries']),
    files_read=sum(part['files_read'] for part in parts),
    files_skipped=sum(part['files_skipped'] for part in parts),
  )


def _run_worker(chunk: Sequence[pathlib.Path]) -> dict:
  package_parent = pathlib.Path(__file__).parents[2]
  search_path = [str(package_parent), os.environ.get('PYTHONPATH', '')]
  environment = os.environ | {
    'PYTHONPATH': os.pathsep.join(filter(None, search_path)),
    'PYTHONIOENCODING': 'utf-8',
  }
  try:
    done = subprocess.run(
      # -P: nothing in the current folder may stand in for a module.
      [sys.executable, '-P', '-m', 'calm_jax.data.docstrings'],
      input=json.dumps([str(path) for path in chunk]),
      capture_output=True,
      encoding='utf-8',
      env=environment,
    )
  except OSError as error:
    raise errors.ResourceError(
      f'Reading docstrings needs to start {sys.executable} as worker processes;'
      f' the system refused: {error}.'
    ) from error
  if done.returncode:
    raise errors.DataError(
      'A worker that reads docstrings must end normally; it left with exit'
      f' code {done.returncode} on a chunk that starts with {chunk[0]}:'
      f' {done.stderr.strip()[-500:]}'
    )
  return json.loads(done.stdout)


def extract_here(files: Sequence[pathlib.Path]) -> Extract:
  """Like `extract`, in this process and without a progress bar."""
  sentences, summaries, files_read = [], [], 0
  for path in files:
    try:
      if path.stat().st_size > _MAX_BYTES:
        continue
      source = path.read_text(encoding='utf-8')
      tree = parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
      continue
    files_read += 1
    for node, docstring in docstrings_of(tree):
      sentences.extend(prose.clean_sentences(docstring))
      summary = prose.summary_of(docstring)
      if summary and not isinstance(node, ast.Module):
        rest, first = summary
        summaries.append((f'{signature(node)} {prose.SEPARATOR} {rest}', first))
    for comment in comments_of(source):
      sentences.extend(prose.clean_sentences(comment))
  return Extract(
    tuple(sentences), tuple(summaries), files_read, len(files) - files_read
  )


def parse(source: str) -> ast.Module:
  """Parses without repeating the source's own syntax warnings to our user."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return ast.parse(source)


def docstrings_of(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
  """Documented nodes in the order of the source text, with their docstrings."""
  pending = [tree]
  while pending:
    node = pending.pop()
    # Statements only: an expression holds no docstring, and skipping the
    # expressions makes the walk several times faster.
    pending.extend(
      x for x in reversed(list(ast.iter_child_nodes(node)))
      if isinstance(x, (ast.stmt, ast.ExceptHandler))
    )  # fmt: skip
    if isinstance(node, _DOCUMENTED):
      docstring = ast.get_docstring(node, clean=False)
      if docstring:
        yield node, inspect.cleandoc(docstring)


def comments_of(source: str) -> Iterator[str]:
  """Blocks of comment lines, without their `#`, in the order of the text.

  Lines of a string that look like comments are taken too: they are prose as
  well, and telling them apart would cost a second parse.
  """
  lines: list[str] = []
  for line in source.splitlines():
    stripped = line.lstrip()
    if stripped.startswith('#'):
      lines.append(stripped.lstrip('#').removeprefix(' '))
    elif lines:
      yield '\n'.join(lines)
      lines = []
  if lines:
    yield '\n'.join(lines)


def signature(node: ast.AST) -> str:
  """`name(arguments)` of a function, `class name` of a class."""
  if isinstance(node, ast.ClassDef):
    return f'class {node.name}'
  arguments = node.args
  names = [x.arg for x in arguments.posonlyargs + arguments.args]
  if arguments.vararg:
    names.append(f'*{arguments.vararg.arg}')
  names.extend(x.arg for x in arguments.kwonlyargs)
  if arguments.kwarg:
    names.append(f'**{arguments.kwarg.arg}')
  return f'{node.name}({", ".join(x for x in names if x != "self")})'


def main() -> None:
  """Worker: JSON list of paths on stdin, JSON of an `Extract` on stdout."""
  paths = [pathlib.Path(x) for x in json.load(sys.stdin)]
  json.dump(dataclasses.asdict(extract_here(paths)), sys.stdout)


if __name__ == '__main__':
  main()
