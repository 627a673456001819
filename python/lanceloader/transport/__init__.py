"""Shared memory through which batches leave worker processes and the helper process."""
