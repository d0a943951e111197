"""What inference reads: tasks of a mixture, lines of a file."""

import pytest
import seqio

from calm_jax import errors
from calm_jax.data import corpus, task_examples
from calm_jax.inference import sources


def test_tasks_of_the_built_in_mixture():
  names = 'docstring_restoration', 'docstring_summarization'
  assert task_examples.task_names('docstrings') == names
  assert task_examples.task_names(names[0]) == names[:1]


def test_tasks_of_a_seqio_mixture():
  feature = {'inputs': seqio.Feature(seqio.ByteVocabulary())}
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files: None, splits=['test']
  )
  names = 'infer_one', 'infer_two'
  for name in names:
    seqio.TaskRegistry.add(
      name, source=source, preprocessors=[], output_features=feature
    )
  seqio.MixtureRegistry.add('infer_both', [(name, 1.0) for name in names])
  try:
    assert task_examples.task_names('infer_both') == names
  finally:
    seqio.MixtureRegistry.remove('infer_both')
    for name in names:
      seqio.TaskRegistry.remove(name)


def test_each_line_of_a_file_is_an_input_of_the_task(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffIt Works!\r\nA caf\u00e9\nIt Works!\n'.encode())
  found = sources.read_file(path, 'docstring_restoration')
  assert [x.inputs for x in found] == [
    'restore: it works',
    'restore: a caf\u00e9',
    'restore: it works',
  ]
  assert [x.targets for x in found] == [''] * 3


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'a word\n\nmore', 'Line 2 of .* must hold at least one word'),
    (b'', 'Line 1 of .* must hold at least one word'),
    (b'a word\n...', 'Line 2 of .* must hold at least one word'),
    (b'a word\n\xe9', 'Line 2 of .* must hold UTF-8'),
  ],
)
def test_fault_45_a_line_that_cannot_be_read_is_named(content, said, tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=said):
    sources.read_file(path, 'docstring_restoration')


def test_a_missing_file(tmp_path):
  with pytest.raises(errors.DataError, match='must be readable'):
    sources.read_file(tmp_path / 'no.txt', 'docstring_restoration')


def test_a_lone_surrogate_is_found_before_anything_is_decoded():
  with pytest.raises(errors.DataError, match='those of id hold a lone surr'):
    sources.checked([corpus.Example('id', 'fine', 'a \ud800')])
