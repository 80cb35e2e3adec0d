"""Single steps and short meta-steps beside the peers."""
