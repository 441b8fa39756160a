"""Disk, clock, bar and TensorBoard."""
