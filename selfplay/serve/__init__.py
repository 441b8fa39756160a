"""What other programs talk to: the GTP engine, the analysis, the review, the web board."""
