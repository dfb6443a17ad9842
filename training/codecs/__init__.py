"""Codecs between media and latents, behind one interface."""
