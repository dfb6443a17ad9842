"""Shot boundaries: by content, or by TransNetV2."""
