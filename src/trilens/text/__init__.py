"""Text in, text out: tokenizers, chat templates, and decoding as tokens come. Needs `tokenizers` and `jinja2`."""
