"""Models as they are: measured on any task, talked to, and handed on to other programs."""
