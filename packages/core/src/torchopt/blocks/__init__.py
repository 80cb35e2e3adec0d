"""The parts that optimizers are chained from and that belong to no single one of them."""
