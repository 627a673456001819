"""Stage 7, LOAD: batches for training, from raw batches of the core to what a step takes.

One module per stage, each used in one line by the loader; none knows the others but
``threads``, which runs Python functions ahead of whoever asks.
"""
