"""What is measured of sound, one file a stage."""
