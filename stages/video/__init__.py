"""What is measured of pictures, one file or folder a stage."""
