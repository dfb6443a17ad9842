"""Ovi: a joint generator of two fused towers (arXiv 2510.01284)."""
