"""What is to be run: configurations, suites, plugins by name, and what code and versions decide a number."""
