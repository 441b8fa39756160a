"""Nets on devices."""
