"""Settings that must stand before JAX or TensorFlow is first imported."""

import os

# A test compares float32 numbers made on one kind of machine; set
# JAX_PLATFORMS yourself to run the tests on another.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# TensorFlow only reads data here; it must not take an accelerator's memory.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
# Figures are written, never shown.
os.environ.setdefault('MPLBACKEND', 'agg')
