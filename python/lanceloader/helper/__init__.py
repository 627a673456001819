"""The helper process of ``loader(in_process=False)``, which sends batches through shared memory."""
