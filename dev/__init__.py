"""Development tools: `make run` and other commands, and a PostgreSQL for development and tests."""
