"""What a move is, beside perfect play."""

PERFECT = 2  #: wins soonest, draws, or loses latest: nothing better is there
KEEPS_VALUE = 1  #: a win stays a win, a loss is lost sooner than need be
LOSES_VALUE = 0
ILLEGAL = -1
