"""LanceDB's API: its builder, permutation tables, transforms, pickles and tables in torch."""
