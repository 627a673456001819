"""What is measured: one module for each scenario, with its names in the results and its ``run``."""
