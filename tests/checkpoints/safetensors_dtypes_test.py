"""Every number type of the safetensors format is read or refused in a sentence.

The types are those of version 0.8.0; an older library that knows fewer of them
takes a file for damaged, and the message says that it may be too old.
"""

import json
import struct

import numpy as np
import pytest
import safetensors

from calm_jax import errors
from calm_jax.checkpoints import safetensors_files

# Type -> bits of one number, and the bytes of 0.5 and -2, little-endian.
READ = {
  'F64': (64, '000000000000e03f00000000000000c0'),
  'F32': (32, '0000003f000000c0'),
  'F16': (16, '003800c0'),
  'BF16': (16, '003f00c0'),
  'F8_E4M3': (8, '30c0'),
  'F8_E5M2': (8, '38c0'),
  'F8_E4M3FNUZ': (8, '38c8'),
  'F8_E5M2FNUZ': (8, '3cc4'),
}
REFUSED = {
  **dict.fromkeys(('I64', 'U64', 'C64'), 64),
  **dict.fromkeys(('I32', 'U32'), 32),
  **dict.fromkeys(('I16', 'U16'), 16),
  **dict.fromkeys(('I8', 'U8', 'BOOL', 'F8_E8M0'), 8),
  **dict.fromkeys(('F6_E2M3', 'F6_E3M2'), 6),
  'F4': 4,
}


def content_of(dtype, shape, data):
  header = {
    'x': {'dtype': dtype, 'shape': shape, 'data_offsets': [0, len(data)]}
  }
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  return struct.pack('<Q', len(text)) + text + data


def read(tmp_path, dtype, shape, data):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(content_of(dtype, shape, data))
  return safetensors_files.read_file(path)['x']


def is_known(dtype, bits):
  try:
    safetensors.deserialize(content_of(dtype, [8], bytes(bits)))
  except safetensors.SafetensorError:
    return False
  return True


@pytest.mark.parametrize('dtype', READ)
def test_a_floating_point_type_is_read(dtype, tmp_path):
  bits, data = READ[dtype]
  if is_known(dtype, bits):
    found = read(tmp_path, dtype, [2, 1], bytes.fromhex(data))
    np.testing.assert_array_equal(found.astype(np.float32), [[0.5], [-2]])
  else:
    with pytest.raises(errors.DataError, match='pip install -U safetensors'):
      read(tmp_path, dtype, [2, 1], bytes.fromhex(data))


@pytest.mark.parametrize('dtype', [*REFUSED, 'F99'])
def test_another_type_is_refused_in_a_sentence(dtype, tmp_path):
  bits = REFUSED.get(dtype, 8)
  message = 'safetensors .* does not know yet'
  if is_known(dtype, bits):
    message = f'tensor x must be of F64, F32, .*, got {dtype}; quantized'
  with pytest.raises(errors.DataError, match=message):
    read(tmp_path, dtype, [8], bytes(bits))


@pytest.mark.parametrize('shape', [[], [0], [0, 3]])
def test_shapes_without_an_axis_or_a_number(shape, tmp_path):
  size = 2 if not shape else 0
  assert read(tmp_path, 'BF16', shape, bytes(size)).shape == tuple(shape)
