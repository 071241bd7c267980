"""Run by a Python that has llama-cpp-python: MODEL.gguf and context, micro-batch, sequences, K and V type as numbers ->
a line of JSON with what llama.cpp says it has allocated, in bytes (from MiB with two digits); the weights exactly."""

import ctypes
import json
import re
import sys

import llama_cpp as cpp

path, (context, ubatch, sequences, key_type, value_type) = sys.argv[1], map(int, sys.argv[2:7])
lines = []
keep = cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode(errors="replace")))
cpp.llama_log_set(keep, ctypes.c_void_p(0))
of_model = cpp.llama_model_default_params()
of_model.use_extra_bufts = False  # no second copy in another layout, as --no-repack
model = cpp.llama_model_load_from_file(path.encode(), of_model)
if not model:
    sys.exit("llama.cpp cannot load the file")
options = cpp.llama_context_default_params()
options.n_ctx, options.n_ubatch, options.n_seq_max = context * sequences, ubatch, sequences
options.swa_full = False  # as llama-server has it
options.type_k, options.type_v = key_type, value_type
if not cpp.llama_init_from_model(model, options):
    sys.exit("llama.cpp cannot make a context")
log = "".join(lines)
sizes = {
    what: sum(float(size) for size in re.findall(rf"{what} buffer size = +([\d.]+) MiB", log)) * 2**20
    for what in ("model", "KV", "RS", "compute", "output")
}
print(json.dumps({**sizes, "weights": cpp.llama_model_size(model)}))
