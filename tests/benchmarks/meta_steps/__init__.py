"""Whole meta-steps, in every way of computing them."""
