"""Running lessons headless: one kernel per lesson, limits, results and reports."""
