"""Checks that run on several ranks, each of which compares with one process.

``test_checks.py`` starts two ranks for each file of checks, within pytest. ``__main__.py`` runs all
checks where torchrun has started the ranks: ``python -m nox -s distributed``.
"""
