"""Building blocks that optimizers share."""
