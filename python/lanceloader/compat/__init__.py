"""Other libraries' names for datasets and samplers, read by the core. One package per library."""
