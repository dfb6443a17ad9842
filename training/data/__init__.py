"""Curated samples as training data: which, in what order, decoded."""
