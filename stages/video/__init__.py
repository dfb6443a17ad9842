"""What is measured of frames, one file or folder a stage."""
