"""The examples at the end of each command's help. A test parses every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        'trilens run "What is the capital of France?"',
        'trilens run "What is 47 times 86?" --model tiny-dense --thinking 50',
        "trilens run --file prompts.jsonl --output answers.jsonl --resume",
    ),
    "chat": (
        "trilens chat --model tiny-routed --thinking on",
        "trilens chat --continue",
    ),
    "card": (
        "trilens card smollm2",
        "trilens card Qwen/Qwen3-30B-A3B --context 32768 --json",
    ),
    "compare": (
        "trilens compare tiny-dense tiny-routed",
        "trilens compare smollm2 tiny-dense --machine this --thinking on",
        "trilens compare tiny-dense tiny-routed --plot sizes.svg",
    ),
    "plan": (
        "trilens plan smollm2 --context 8192",
        "trilens plan Qwen/Qwen3-30B-A3B --machine h100x8 --engine vllm",
    ),
    "which": (
        "trilens which --machine rtx4090 --task chat --context 16384",
        "trilens which --machine m4-max --thinking on --at-least 20tok/s --sort answer",
        "trilens which --machine cuda --bandwidth 448 --tflops 24 --memory 16",
    ),
    "thinking": (
        "trilens thinking tiny-dense",
        "trilens thinking openai:gpt-5.1",
        "trilens thinking Qwen/Qwen3-0.6B --engine vllm",
    ),
    "tag": (
        "trilens tag names.txt",
        "trilens tag - --json",
    ),
    "trace": (
        'trilens trace tiny-routed "What is 3 plus 4?"',
        'trilens trace tiny-routed "What is 3 plus 4?" --plot heat.svg',
    ),
    "combos": (
        "trilens combos",
        "trilens combos --questions 400 --stretch",
    ),
    "pull": (
        "trilens pull smollm2",
        "trilens pull ORG/NAME-GGUF:Q4_K_M",
    ),
    "bench": (
        "trilens bench smollm2",
        "trilens bench model.gguf --batch 8 --threads 4 --json",
        "trilens bench smollm2 --share measured.csv",
    ),
    "doctor": (
        "trilens doctor",
        "trilens doctor --measure",
    ),
    "models": (
        "trilens models",
        "trilens models --catalog",
    ),
    "show": (
        "trilens show smollm2",
        "trilens show model.gguf --json",
    ),
    "rm": (
        "trilens rm smollm2",
        "trilens rm Qwen/Qwen3-0.6B --yes",
    ),
    "log": (
        "trilens log --on",
        "trilens log --since today --model tiny-dense",
    ),
    "cost": (
        "trilens cost",
        "trilens cost --by day --since monday",
    ),
    "quantise": (
        "trilens quantise Qwen/Qwen3-0.6B --to Q4_K_M -o qwen.gguf",
        "trilens quantise ./my-model --to Q8_0 -o mine.gguf",
    ),
    "perplexity": (
        "trilens perplexity smollm2 text.txt",
        "trilens perplexity mine.gguf text.txt --context 1024 --pieces 10",
    ),
    "serve": (
        "trilens serve",
        "trilens serve tiny-routed smollm2 --port 8080 --api-key SECRET",
        "trilens serve Qwen/Qwen3-0.6B --engine vllm -- --max-model-len 32768",
    ),
    "completion": (
        "trilens completion bash >> ~/.bashrc",
        "trilens completion zsh >> ~/.zshrc",
        "trilens completion fish > ~/.config/fish/completions/trilens.fish",
    ),
}


def epilog(command: str) -> str:
    """The examples of a command as the last part of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command])


def example(command: str) -> str:
    """The first example of a command that has an option, or its first one."""
    return next((line for line in EXAMPLES[command] if " --" in line), EXAMPLES[command][0])
