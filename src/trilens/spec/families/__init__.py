"""One short function a family: the keys of its config.json -> its spec. `huggingface.py` has the table of them."""
