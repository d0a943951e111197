"""Fills the tables of docs/formats.md from the records: names, types, defaults.

    dataclass --fields, Attributes: of its docstring, WORDS below--> its table

Run `python -m docs.generate_formats` after a record has changed; a test fails
where the page is not what this makes of it, or a field has no explanation.
"""

import ast
import pathlib
import re

from docs import generate_gin_reference as docstrings

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'formats.md'
_TABLE = re.compile(
  r'(<!-- fields of ([\w.]+) -->\n).*?(<!-- end -->)', re.DOTALL
)

# Of fields that need no more words where they stand in the code.
WORDS = {
  'batch_size': 'texts that were timed side by side',
  'calibrated': 'at the calibrated threshold, a SystemRow',
  'certified': 'whether the testing procedure certified it',
  'classifiers_sha256': "of exit_classifiers.safetensors; '' where it is not",
  'command': 'repeats the run',
  'consistency': "'textual', 'risk' or 'risk_difference'",
  'example_id': 'of the example, as in the dump',
  'failure_prob': 'epsilon of the paper',
  'feature_lengths': 'longest inputs and targets, in tokens',
  'file': 'its name in the folder',
  'full': 'the full model, a SystemRow',
  'full_prediction': "the full model's output",
  'machine': 'where time was measured',
  'max_decode_length': 'T, tokens of the longest output, EOS included',
  'mean_layers': 'decoder layers per token',
  'mean_loss': 'over the texts',
  'mean_metric': "the task's metric against the references",
  'metric': "name of the metric; of an example, the output's score",
  'model': 'that decoded them, a ModelDescription',
  'network': 'sizes of the network, by the names of `t5.network.T5Config`',
  'num_decoder_layers': 'L',
  'num_examples': 'how many texts',
  'num_layers_used': 'layers of each piece, 1..L',
  'output_length': "'ratio' and 'extra' of lengths.ProportionalLength, or {}",
  'p_value': 'of "the expected loss exceeds the tolerance"',
  'params_sha256': 'of params.safetensors',
  'pieces': 'the tokens as SentencePiece writes them',
  'prediction': "the calibrated model's output",
  'reason': 'why this threshold, in a sentence',
  'reference': 'the target',
  'samples': 'outputs to show',
  'schema_version': 'of the format; another one is refused',
  'sha256': "of the file's bytes, in hexadecimal",
  'shards': 'the npz files',
  'source': "the model's input",
  'split': 'of the task',
  'task': 'its name',
  'threshold': 'in [0, 1]; 1 is the full model',
  'tolerance': 'delta of the paper',
  'tokens_timed': 'how many tokens were timed',
  'training': 'how it was trained, in words',
  'versions': 'of packages',
  'vocabulary_sha256': 'of sentencepiece.model',
}


def page(content: str) -> str:
  """The page with every table made anew."""
  return _TABLE.sub(
    lambda match: f'{match[1]}{table(match[2])}\n{match[3]}', content
  )


def table(name: str) -> str:
  """Of the record calm_jax.NAME, as 'records.contracts.Manifest'."""
  rows = [
    f'| `{field}` | {kind} | {default} | {words} |'
    for field, kind, default, words in fields(name)
  ]
  return '\n'.join(['| field | type | default | |', '|---|---|---|---|', *rows])


def fields(name: str) -> list[tuple[str, str, str, str]]:
  """Name, type, default and explanation of each field.

  Raises:
    KeyError: a field is explained neither by its docstring nor by `WORDS`.
  """
  module, _, cls = name.rpartition('.')
  path = ROOT / 'calm_jax' / f'{module.replace(".", "/")}.py'
  (node,) = (
    x
    for x in ast.parse(path.read_text(encoding='utf-8')).body
    if isinstance(x, ast.ClassDef) and x.name == cls
  )
  explained = docstrings.explanations(ast.get_docstring(node) or '')
  return [
    (
      item.target.id,
      _code(item.annotation),
      _code(item.value) if item.value else 'required',
      docstrings.cell(explained.get(item.target.id) or WORDS[item.target.id]),
    )
    for item in node.body
    if isinstance(item, ast.AnnAssign)
  ]


def _code(node: ast.AST) -> str:
  text = ast.unparse(node).replace('|', '\\|')
  text = re.sub(r'\b(efficiency_records|json_records)\.', '', text)
  made = re.fullmatch(r'dataclasses\.field\(default_factory=(\w+)\)', text)
  return f'`{made[1]}()`' if made else f'`{text}`'


if __name__ == '__main__':
  PAGE.write_text(page(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
