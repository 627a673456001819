"""What the types of the public names promise: checked by mypy, never run."""
