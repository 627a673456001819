"""``Loader``: the batches of a process in each epoch, and the state of training."""
