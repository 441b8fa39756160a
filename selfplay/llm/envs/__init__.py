"""Environments of several turns: text games, tools, users that answer."""
