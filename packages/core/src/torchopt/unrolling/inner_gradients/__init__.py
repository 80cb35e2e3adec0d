"""Gradients that a step takes itself: computed, cached, and differentiated once more."""
