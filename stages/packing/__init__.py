"""Samples and shards: conformed media in tar files."""
