"""Faces: found, followed, counted."""
