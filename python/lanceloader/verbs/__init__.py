"""The methods of a permutation, by topic. Each returns a new permutation or reads rows."""
