"""Memory and time of long unrolls."""
