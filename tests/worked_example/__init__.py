"""Runs the worked example of CONTRIBUTING.md; the session ``example`` calls it."""
