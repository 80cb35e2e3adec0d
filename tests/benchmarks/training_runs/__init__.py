"""Memory, disk and time of metagradients of whole training runs."""
