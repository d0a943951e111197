"""Texts and prompts of users -> token rows, and what is refused."""

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.data import text_rows, vocabulary

UNDECODABLE = b'caf\xe9'.decode('utf-8', 'surrogateescape')


@pytest.fixture(scope='module')
def tokenizer():
  return vocabulary.default_tokenizer()


def _prompt_rows(tokenizer, prompts, **changes):
  options = {'num_texts': len(prompts), 'eos_id': 1, 'max_decode_length': 6}
  return text_rows.prompt_rows(prompts, tokenizer, **(options | changes))


def test_fault_46_encodes_with_eos_and_truncates(tokenizer):
  texts = ['restore: a', 'restore: ' + 'word ' * 50]
  with pytest.warns(UserWarning, match='1 of 2 texts are longer than 12'):
    tokens = text_rows.input_rows(texts, tokenizer, 12)
  assert tokens.shape == (2, 12)
  assert (tokens[1] > 0).all() and tokens[1, -1] == vocabulary.EOS_ID
  ends = np.flatnonzero(tokens[0] == vocabulary.EOS_ID)
  assert len(ends) == 1 and (tokens[0, ends[0] + 1 :] == 0).all()


@pytest.mark.parametrize('text', ['', '  \n'])
def test_an_empty_text_is_refused(tokenizer, text):
  with pytest.raises(errors.DataError, match='text 2 of 2 is empty'):
    text_rows.input_rows(['restore: fine', text], tokenizer, 12)


def test_a_text_that_is_not_unicode_is_refused(tokenizer):
  with pytest.raises(errors.DataError, match='prompt 1 of 1 holds bytes'):
    _prompt_rows(tokenizer, [UNDECODABLE])
  with pytest.raises(errors.DataError, match='text 1 of 1 holds bytes'):
    text_rows.input_rows([UNDECODABLE], tokenizer, 12)


def test_prompts_have_no_eos_and_leave_a_column_free(tokenizer):
  ids = tokenizer.encode('This is')
  rows = _prompt_rows(tokenizer, ['This is', ''])
  assert rows.tolist() == [[*ids, 0], [0] * (len(ids) + 1)]


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'num_texts': 2}, 'one prompt for each of the 2 texts, got 1'),
    ({'max_decode_length': 2}, 'shorter than the longest output of 2'),
  ],
)
def test_prompts_that_do_not_fit_are_refused(tokenizer, changes, said):
  with pytest.raises(errors.ConfigError, match=said):
    _prompt_rows(tokenizer, ['This is a'], **changes)


def test_a_prompt_that_holds_the_end_is_refused(tokenizer):
  ids = tokenizer.encode('This is')
  with pytest.raises(errors.ConfigError, match=f'the token {ids[-1]} '):
    _prompt_rows(tokenizer, ['This is'], eos_id=ids[-1])


def test_no_texts_give_no_rows(tokenizer):
  assert text_rows.input_rows([], tokenizer, 12).shape == (0, 12)
  assert _prompt_rows(tokenizer, []).shape == (0, 1)
