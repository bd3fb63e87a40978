"""The HTTP side: requests, responses, and the endpoints. Knows no SQL."""
