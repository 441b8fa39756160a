"""The web board: a small server on this machine, and the pages that it serves."""
