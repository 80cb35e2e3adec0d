"""Fused kernels beside the composite rules."""
