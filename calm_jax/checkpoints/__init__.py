"""Parameters on disk: Orbax checkpoints, T5X's, Hugging Face's, and bundles.

    orbax_io          MODEL_DIR/checkpoint_N, written by training
    from_t5x          T5X's checkpoints, native and Orbax -> parameters
    t5x_adafactor     their accumulators -> our optimizer's state
    from_huggingface  config.json, model.safetensors -> both
    bundle            a finished model in one small directory
    load              any of these, from a bucket too (remote)

All of them give the same nested dict of float32 arrays, with T5X's names, and
refuse a file whose parameters are not exactly those of the network.
"""
