"""Units of a loader: rows, blocks of packed documents, or batches under a token budget."""
