"""Deciding: gates as SQL, verdicts, the mix."""
