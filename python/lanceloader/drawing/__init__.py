"""What random functions draw from, keyed by row."""
