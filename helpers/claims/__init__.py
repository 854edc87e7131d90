"""The article's claims, the verdicts on them, and forecasts with their scores."""
