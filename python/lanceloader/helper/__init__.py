"""The helper process of ``loader(in_process=False)``, and how batches leave it through shared memory."""
