"""Stages at work: on a decode unit, on a clip, and the cutting of units into clips."""
