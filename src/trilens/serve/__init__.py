"""The same call over HTTP and in a browser."""
