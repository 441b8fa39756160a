"""Learning from which of two answers is the better one."""
