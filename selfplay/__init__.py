"""The AlphaGo recipe as a framework: games, nets, search, self-play, and the chart."""
