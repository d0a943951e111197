"""How often a model's outputs never end: where a word or a phrase comes again.

  python -m benchmarks.loops --model=runs/docstrings_model --num_texts=300

Three sets of texts are decoded by the full model, greedily: sentences written
for it, in which words come again; sentences of the split in which a phrase was
made to come again; and the split's sentences as they are. It prints a line of
JSON for each: texts, outputs that never end, exact matches. Sentences of the
second set lost their punctuation, so exactness says nothing there but that the
words are those of the input, in their order (`same_words`).
"""

import argparse
import json
import re
import time
from collections.abc import Sequence

import numpy as np

import calm_jax
from calm_jax.data import corpus, prose, tasks, vocabulary

# Written by hand, after outputs that were seen to loop.
SENTENCES = (
  'Returns the index of the current group in the current session.',
  'Merge the coordinate arrays and the value array into the output array.',
  'The name of the class and the name of the module of the class.',
  'Use the Damera-Venkata filter if the Damera-Venkata kernel is given.',
  'If the key is in the first map and the key is in the second map, the key'
  ' of the second map wins.',
  'An array of the same shape and the same type as the input array.',
  'Whether the left side of the left node is the right side of the right node.',
  'The start of the range, the end of the range, and the step of the range.',
  'Convert the string to a byte string if the string is a text string.',
  'Maps the old name to the new name and the new name to the old name.',
  'Check that the number of rows is the number of rows of the other matrix.',
  'The request is sent to the server and the server answers the request.',
  'A list of lists of strings, one list of strings per line of the file.',
  'Raise an error if the error handler raises an error.',
  'The lower bound of the lower triangle and the upper bound of the upper'
  ' triangle.',
  'Set the value to the default value unless the value is set.',
  'Test that the test runner runs the test of the test class.',
  'The first element of the first tuple and the last element of the last'
  ' tuple.',
  'The user can set the user name, the user group and the user id of the user.',
  'Read the header of the file, then the body of the file, then the footer of'
  ' the file.',
  'Compute the mean of the mean of each group and the variance of the mean of'
  ' each group.',
  'If a file is open, close the file, and if the file is closed, open it.',
  'The width of the left image plus the width of the right image is the width'
  ' of the image.',
  'Any value that is not a number is a value that is not in the table.',
)


def said_again(example: corpus.Example) -> corpus.Example:
  """A sentence's plain words with one to four of them said twice, by its id."""
  random = np.random.default_rng(int(example.example_id, 16))
  words = re.sub(r'[^\w\s-]', ' ', example.targets).split()
  size = int(random.integers(1, 5))
  start = int(random.integers(0, max(len(words) - size, 1)))
  place = int(random.integers(min(start + size, len(words)), len(words) + 1))
  words[place:place] = words[start : start + size]
  text = ' '.join(words)
  return corpus.Example(
    example.example_id, tasks.RESTORATION.inputs_of(text), text
  )


def written() -> list[corpus.Example]:
  """`SENTENCES` as examples."""
  return [
    corpus.Example(f'{i:016x}', tasks.RESTORATION.inputs_of(text), text)
    for i, text in enumerate(SENTENCES)
  ]


def measure(
  generator, examples: Sequence[corpus.Example], batch_size: int
) -> tuple[dict[str, float], list[tuple[str, str]]]:
  """Counts over the examples, and (target, output) of those that never end."""
  num_endless = num_exact = num_same_words = 0
  endless = []
  for start in range(0, len(examples), batch_size):
    part = examples[start : start + batch_size]
    # Always the same shape: one program.
    filled = [*part, *[part[-1]] * (batch_size - len(part))]
    rows = generator.encode([x.inputs for x in filled])
    result = generator.generate_tokens(generator.request(rows))
    for example, tokens in zip(part, result.tokens, strict=False):
      text = generator.tokenizer.decode(
        tokens[tokens > vocabulary.EOS_ID].tolist()
      )
      num_exact += text == example.targets
      num_same_words += prose.plain_words(text) == prose.plain_words(
        example.targets
      )
      if vocabulary.EOS_ID not in tokens:
        num_endless += 1
        endless.append((example.targets, text))
  count = len(examples)
  numbers = {
    'num_texts': count,
    'num_endless': num_endless,
    'endless': num_endless / count,
    'exact_match': num_exact / count,
    'same_words': num_same_words / count,
  }
  return {name: round(x, 5) for name, x in numbers.items()}, endless


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='docstrings')
  parser.add_argument('--split', default='validation')
  parser.add_argument('--num_texts', type=int, default=300)
  parser.add_argument('--batch_size', type=int, default=50)
  parser.add_argument('--show', type=int, default=0, help='endless outputs')
  args = parser.parse_args()
  generator = calm_jax.load(args.model)
  examples = corpus.load_corpus(tasks.RESTORATION.name, args.split)
  examples = examples[: args.num_texts]
  for name, texts in {
    'written': written(),
    'said again': [said_again(x) for x in examples],
    args.split: examples,
  }.items():
    started = time.monotonic()
    numbers, endless = measure(generator, texts, args.batch_size)
    seconds = round(time.monotonic() - started, 1)
    print(
      json.dumps({'texts': name} | numbers | {'seconds': seconds}), flush=True
    )
    for target, output in endless[: args.show]:
      print(f'  {target!r}\n    -> {output!r}', flush=True)


if __name__ == '__main__':
  main()
