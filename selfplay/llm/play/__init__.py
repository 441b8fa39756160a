"""Language models that play our games: boards and moves as text."""
