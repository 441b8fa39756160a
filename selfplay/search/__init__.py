"""Tree search. Knows no game's rules and no net."""
