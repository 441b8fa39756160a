"""The one kind of failure that a user caused and can mend."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""
