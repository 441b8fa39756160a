"""What knows neither games nor nets."""
