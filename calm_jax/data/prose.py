"""Clean prose of one docstring: its sentences, or a summary pair.

Pure string functions between `docstrings` (which reads files) and `corpus`
(which splits and stores). Fewer clean examples beat many dirty ones: anything
that looks like code, markup, a list, a table or a field is dropped.
"""

import re
import unicodedata

SEPARATOR = 'docstring:'

_SENTENCE_WORDS = range(6, 29)
_SUMMARY_WORDS = range(4, 31)
_MAX_REST_CHARACTERS = 600

# An ordinary word: lower case, Capitalized, or CAPITALS with a plural s; with
# inner apostrophes and hyphens; or a short number. No snake_case, no camelCase.
_PART = r'(?:[A-Za-z][a-z]*|[A-Z]{2,7}s?)'
_WORD = re.compile(
  rf"(?:{_PART}(?:['-]{_PART})*(?:(?<=s)')?|[0-9]{{1,4}}|e\.g\.|i\.e\.|etc\.)"
  r'[,;:]?'
)
_ABBREVIATIONS = ('e.g.', 'i.e.', 'etc.', 'vs.', 'cf.', 'fig.', 'no.', 'al.')
_SENTENCE_END = re.compile(r'(?<=[.?!])\s+(?=[A-Z])')
_LIST_ITEM = re.compile(r'\s*(?:[-*+•]|\(?[0-9a-z]{1,2}[.)])\s+')
# `name: text` or `name (type): text` in a Google style section.
_ENTRY = re.compile(r'\s*[`*\w.,]+(?: \([^)]*\))?:(?:\s+|$)')
_DASHES = re.compile(r'\s*[-=~^"*+#]{3,}\s*$')
_SPACE = re.compile(r'\s+')


def plain_words(text: str) -> str:
  """Lower-cased words only, as a speech recognizer writes them.

  Apostrophes and hyphens stay inside words; all other punctuation goes.
  """
  text = unicodedata.normalize('NFKC', text).lower().replace('’', "'")
  # Abbreviations shrink to one word: e.g. -> eg.
  text = re.sub(r'(?<=\b[a-z])\.(?=[a-z]\b)', '', text)
  text = re.sub(r"[^\w\s'-]|_", ' ', text)
  words = (word.strip("'-") for word in text.split())
  return ' '.join(word for word in words if word)


def paragraphs(docstring: str) -> list[list[str]]:
  """Blocks of lines between blank lines."""
  blocks: list[list[str]] = [[]]
  for line in docstring.splitlines():
    if line.strip():
      blocks[-1].append(line)
    elif blocks[-1]:
      blocks.append([])
  return [block for block in blocks if block]


def clean_sentences(docstring: str) -> list[str]:
  """Sentences of the docstring that are plain English prose."""
  found = []
  for block in paragraphs(docstring):
    for text in _running_text(block):
      # Backticks around an ordinary word are markup, not part of the sentence;
      # what is not an ordinary word inside them is dropped by `is_clean`.
      text = text.replace('`', '')
      found.extend(x for x in split_sentences(text) if is_clean(x))
  return found


def _running_text(block: list[str]) -> list[str]:
  """Joins lines of one indentation; a list item or entry opens a new text."""
  if any(_DASHES.match(line) for line in block):
    return []
  texts: list[list[str]] = []
  indent = None
  for line in block:
    here = len(line) - len(line.lstrip())
    opening = _LIST_ITEM.match(line) or _ENTRY.match(line)
    if opening:
      # The next line, indented deeper, continues the item.
      texts.append([line[opening.end() :]])
      indent = None
      continue
    if not texts or (indent is not None and here != indent):
      texts.append([])
    texts[-1].append(line)
    indent = here
  return [_SPACE.sub(' ', ' '.join(lines)).strip() for lines in texts]


def split_sentences(text: str) -> list[str]:
  """Splits at . ? ! before a capital, but not after an abbreviation."""
  sentences: list[str] = []
  for piece in _SENTENCE_END.split(text):
    if sentences and sentences[-1].lower().endswith(_ABBREVIATIONS):
      sentences[-1] += ' ' + piece
    else:
      sentences.append(piece)
  return sentences


def is_clean(sentence: str) -> bool:
  """True for one English sentence of 6 to 28 ordinary words."""
  if not sentence[:1].isupper() or sentence[-1] not in '.?!':
    return False
  words = sentence[:-1].split(' ')
  if len(words) not in _SENTENCE_WORDS:
    return False
  return all(map(_WORD.fullmatch, words))


def summary_of(docstring: str) -> tuple[str, str] | None:
  """(rest of the docstring, first paragraph), or None where one is missing."""
  first, *rest = paragraphs(docstring) or [[]]
  target = _SPACE.sub(' ', ' '.join(first)).strip()
  if not rest or len(target.split()) not in _SUMMARY_WORDS:
    return None
  if not target.isascii() or not target[0].isalpha() or '>>>' in target:
    return None
  lines = [line for block in rest for line in block]
  text = _SPACE.sub(' ', ' '.join(lines)).strip()
  # Source code can spell half a surrogate pair, which no UTF-8 file can hold.
  text = text[:_MAX_REST_CHARACTERS].encode('utf-8', 'ignore').decode('utf-8')
  return text, target
