"""What a loader batches: rows, blocks of packed documents, or batches under a token budget."""
