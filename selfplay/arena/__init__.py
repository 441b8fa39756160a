"""Who plays whom: players, engines, matches, ratings."""
