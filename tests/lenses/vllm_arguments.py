"""Run by a Python that has vLLM: a JSON list of lists of arguments behind `vllm serve` -> what its own parser made of
each, a line of JSON for all."""

import json
import sys

try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:  # before 0.32
    from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

known = ("max_model_len", "tensor_parallel_size", "pipeline_parallel_size", "enable_expert_parallel", "kv_cache_dtype")
parser, made = make_arg_parser(FlexibleArgumentParser()), []
for given in json.loads(sys.argv[1]):
    arguments = parser.parse_args(given)
    if arguments.reasoning_parser and arguments.reasoning_parser not in ReasoningParserManager.list_registered():
        sys.exit(f"vLLM has no reasoning parser {arguments.reasoning_parser}")
    made.append({name: getattr(arguments, name) for name in known})
print(json.dumps(made))
