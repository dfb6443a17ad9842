"""What is measured of picture and sound together."""
