"""Data of the stages that read a corpus."""

import pytest

from calm_jax.data import corpus


@pytest.fixture(scope='module')
def short_corpus():
  """Sixty made-up sentences per split instead of the real corpus."""

  def load_corpus(task, split):
    return [
      corpus.Example(
        f'{split}-{i:03}',
        f'restore: it returns {i} values and {split}',
        f'It returns {i} values, and {split}.',
      )
      for i in range(60)
    ]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(corpus, 'load_corpus', load_corpus)
    patch.setattr(corpus, 'ensure_corpus', lambda: None)
    patch.setattr(corpus, 'read_manifest', lambda _: {'digest': 'made up'})
    yield
