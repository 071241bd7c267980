"""Run by a Python that has llama-cpp-python: MODEL.gguf, a JSON list of tokens, OUT.npy -> logits [tokens, vocab]."""

import ctypes
import json
import sys

import llama_cpp as cpp
import numpy as np

path, tokens, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
quiet = cpp.llama_log_callback(lambda level, text, data: sys.stderr.write(text.decode(errors="replace")))
cpp.llama_log_set(quiet, ctypes.c_void_p(0))
model_params = cpp.llama_model_default_params()
model_params.n_gpu_layers = 0
model = cpp.llama_model_load_from_file(path.encode(), model_params)
if not model:
    sys.exit("llama.cpp cannot load the file")
params = cpp.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.type_k = params.type_v = 0  # F32
params.flash_attn_type = 0
params.n_threads = params.n_threads_batch = 1
context = cpp.llama_init_from_model(model, params)
if not context:
    sys.exit("llama.cpp cannot make a context")
batch = cpp.llama_batch_init(len(tokens), 0, 1)
batch.n_tokens = len(tokens)
for i, token in enumerate(tokens):
    batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
if cpp.llama_decode(context, batch):
    sys.exit("llama.cpp cannot decode")
vocab = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(model))
rows = [np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, i), (vocab,)).copy() for i in range(len(tokens))]
np.save(out, np.stack(rows))
