"""Contests as people run them: sequential tests, tournaments, clocks, opening books, records."""
