"""Trees: no rules, no net."""
