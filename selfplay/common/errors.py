"""The kinds of failure that a user caused and can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class DiskError(UserError):
    """The system refuses to write: nothing further could be kept."""


class Absent(UserError):
    """What was asked over a network does not answer; a learner is then as its last row says."""


class Breakdown(UserError):
    """A loss, gradient or divergence that is not sound; nothing of it has been learnt or saved."""
