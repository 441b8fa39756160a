"""A policy teaches: its own right answers are what another model learns."""
