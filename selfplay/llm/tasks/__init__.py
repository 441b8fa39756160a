"""Questions with checkable answers: data sets of reasoning-gym, files, and tasks of one's own."""
