"""What is measured of video and audio together."""
