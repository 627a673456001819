"""``Loader``: which units of an epoch this process gets, in which batches, and where training stands."""
