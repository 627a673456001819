"""LanceDB's API: its builder, its permutation tables, its transforms and its pickles."""
