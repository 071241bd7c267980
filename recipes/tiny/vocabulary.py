"""The tokenizer of the small models: every byte, every digit alone, and the pieces that the questions are made of."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 512
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
# fmt: off
WORDS = {  # of the questions the models first learnt, and how often; a new word is written in pieces of these
    "How": 598, " much": 330, " is": 1231, " +": 72, "What": 492, " plus": 299, "Anna": 89, " has": 89,
    " coins": 178, " and": 630, " finds": 89, " more": 89, " How": 249, " many": 517, " does": 225, " she": 89,
    " have": 89, "Calculate": 338, " the": 993, " sum": 81, " of": 461, "Add": 80, " minus": 270, " difference": 82,
    " -": 77, "Subtract": 78, " from": 78, " shelf": 72, " holds": 160, " books": 144, " are": 364, " taken": 72,
    " away": 72, " left": 72, "Multiply": 170, " by": 170, " box": 88, " pens": 176, " in": 488, " boxes": 88,
    " product": 175, " times": 722, " *": 181, "Take": 132, " What": 263, " result": 132, "Start": 131, " with": 131,
    " then": 268, " do": 131, " you": 131, " get": 131, "Which": 277, " number": 138, " bigger": 138, " or": 277,
    "Name": 123, " larger": 262, " one": 123, " letter": 268, " occur": 136, "Count": 132, " word": 132, "user": 400,
    "assistant": 400, "system": 400,
}
# fmt: on

TEMPLATE = """\
{%- set last = namespace(query=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{%- set last.query = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>\\nCall one with <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if m.reasoning_content and loop.index0 > last.query %}
            {{- '<think>\\n' + m.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- (m.content or '').split('</think>')[-1].lstrip('\\n') }}
        {%- for call in m.tool_calls or [] %}
            {%- set f = call.function or call %}
            {{- '\\n<tool_call>\\n{"name": "' + f.name + '", "arguments": ' }}
            {{- f.arguments if f.arguments is string else f.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""


def make_tokenizer() -> Tokenizer:
    """The same every time: byte-pair pieces of `WORDS`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(THINK),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for word, count in WORDS.items() for _ in range(count)], trainer)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in THINK])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as the Hugging Face layout has them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
