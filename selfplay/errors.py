"""The kinds of failure that a user caused and can mend."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class DiskError(UserError):
    """The system refuses to write: nothing further could be kept."""
