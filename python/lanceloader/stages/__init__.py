"""The stages between a raw batch and the training loop: format, transform, collate, copy to a device."""
