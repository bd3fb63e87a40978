"""The tests: always on a real PostgreSQL, under the service's own role, and the books balance after each of them."""
