"""More than one machine: Ray, and what it carries."""
