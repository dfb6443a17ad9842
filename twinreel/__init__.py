"""Twinreel for notebooks and programs."""
