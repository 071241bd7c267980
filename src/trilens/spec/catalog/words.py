"""Names as people write them -> words: "Meta-Llama-3.1-8B" and "라마 3.1 80억" become llama, 3.1, 8b and more."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from importlib import resources

Words = frozenset[str]

SIZE = re.compile(r"e?\d+(?:\.\d+)?[bmt]|a\d+(?:\.\d+)?[bm]|\d+x\d+(?:\.\d+)?b|\d+e")
DATE = re.compile(r"(?:19|20)\d{6}|20\d\d|2[3-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])[0-3]\d")
CONTEXT = re.compile(r"\d+k|1m")
QUANTISED = re.compile(r"i?q\d\w*|[wa]\d+a?\d*|\d+bit|\d+bpw|(?:fp|bf|int|nf|nvfp|mxfp)\d+|[ui]\d|f16|f32")
VENDORS = """
    meta llama openai google deepmind microsoft mistral mistralai anthropic alibaba nvidia ibm deepseek moonshot
    moonshotai zai zhipu minimax minimaxai tencent baidu databricks xai cohere allenai ai2 qwen hf huggingface
    huggingfacetb unsloth bartowski nousresearch thebloke lmstudio mlx community redhatai neuralmagic ollama
    amazon cohere coherelabs cohereforai ai21 ai21labs naver kakao kakaocorp upstage lg lgai skt sk telecom kt
    groq together fireworks bedrock vertex openrouter azure accounts models xiaomimimo org xai-org
"""
PLAIN = """
    instruct instruction chat it hf gguf ggml awq gptq exl2 exl3 bnb dynamic ud xl k m s l xs xxs nl safetensors
    text only latest preview exp experimental the model ai by from quantized quantised quant versatile language
    free api old new original official stable release version series llm tuned block channel torchao onnx with
    mode on enabled parameters params parameter
"""
FAMILIES = frozenset("llama deepseek qwen mistral minimax".split())  # vendors that name their models after themselves
THINKS = frozenset("thinking think reasoning reasoner extended cot".split())
BACKBONES = {"moe": "routed", "dense": "dense"}  # words that say which of a family's models are meant
LEVELS = frozenset("minimal low medium high xhigh max".split())
NEGATED = re.compile(
    r"\b(?:non|no|without|not)[\s_-]*(?:extended[\s_-]*)?(?:thinking|reasoning|think)\b"
    r"|\b(?:thinking|reasoning)[\s_:=-]*(?:off|disabled|none)\b"
)
BEDROCK = re.compile(
    r"^(?:[a-z]{2,6}\.)?(?:anthropic|meta|mistral|deepseek|openai|google|qwen|amazon|cohere|ai21)\.|-v\d+:\d+$"
)
BASES = frozenset("base pt pretrained foundation".split())
HARMLESS = frozenset((VENDORS + PLAIN).split())
CHAT = frozenset("instruct it chat".split())  # what publishers call a model that was trained for conversation
# Words that say nothing of the wiring, and name other files than those of a model without them.
FORMS = CHAT | BASES | frozenset("gguf ggml awq gptq exl2 exl3 bnb ud onnx torchao block channel old new".split())
HUNDRED_MILLIONS = re.compile(r"(\d+(?:\.\d+)?)\s*[억亿億]")
OTHER_SCRIPTS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")  # kana, Chinese, Hangul


def words_of(name: str) -> Words:
    return frozenset(split(name))


@cache
def split(name: str) -> tuple[str, ...]:
    text = NEGATED.sub(" ", in_latin(name.lower().strip()))
    text = re.sub("[\u2010-\u2015\u2212]", "-", text).replace("\u00d7", "x")  # dashes, times
    text = text.rsplit("/", 1)[-1] if "/" in text else text
    text = BEDROCK.sub("", text)
    text = re.sub(r"\.(?:gguf|safetensors|json|bin)$", "", text)
    text = re.sub(r"20\d\d-\d\d-\d\d|-\d\d-(?:20)?\d\d(?=$|[\s:])", " ", text)  # 2024-08-06, 05-06
    text = re.sub(r"\b(\d+)p(\d+)\b|(?<=v\d)p(\d)", lambda m: f"{m[1]}.{m[2]}" if m[1] else f".{m[3]}", text)
    text = re.sub(r"(\d)\s*x\s*(\d)", r"\1x\2", text)
    text = re.sub(r"(\d)[\s-]*(?:billion|bn)\b", r"\1b", text)
    text = re.sub(r"(\d)[\s-]*(?:million)\b", r"\1m", text)
    text = re.sub(r"(\d) +([bm])\b", r"\1\2", text)
    text = re.sub(r"\+", " plus ", text)
    words: list[str] = []
    for piece in re.split(r"[\s\-_:,;()\[\]|@=~'\"]+", text):
        words += _pieces(piece.strip("."))
    return tuple(_versions(words))


def _pieces(word: str) -> list[str]:
    """qwen3 -> qwen, 3; llama3.1 -> llama, 3.1; v3 -> 3; gpt4o -> gpt, 4o; 8x7b, a3b, e4b, r1 and o3 stay."""
    if not word or SIZE.fullmatch(word) or QUANTISED.fullmatch(word) or CONTEXT.fullmatch(word):
        return [word] if word else []
    if version := re.fullmatch(r"v(\d+(?:\.\d+)*)", word):
        return [version[1]]
    if mixed := re.fullmatch(r"([a-z]{2,})(\d.*)", word):
        return [mixed[1], *_pieces(mixed[2])]
    if sized := re.fullmatch(r"(\d+(?:\.\d+)?b)(a\d+(?:\.\d+)?b)", word):
        return [sized[1], sized[2]]
    return [word]


def _versions(words: list[str]) -> list[str]:
    """claude, 3, 5 -> claude, 3.5; k2, 5 -> k2.5; and 4.0 is 4."""
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"\d", word) and joined and re.fullmatch(r"[a-z]?\d", joined[-1]):
            joined[-1] += "." + word
        else:
            joined.append(word)
    return [re.sub(r"^([a-z]?\d+)\.0$", r"\1", word) for word in joined]


def mode_of(name: str) -> str | None:
    """What the name itself says of the thinking: "off", "on", "base" or nothing."""
    if NEGATED.search(in_latin(name.lower())):
        return "off"
    words = words_of(name)
    if words & BASES:
        return "base"
    return "on" if words & (THINKS | LEVELS) else None


def says_nothing(word: str) -> bool:
    if word in HARMLESS or DATE.fullmatch(word) or QUANTISED.fullmatch(word) is not None:
        return True
    return CONTEXT.fullmatch(word) is not None


def in_latin(text: str) -> str:
    """Words in Hangul, Chinese and kana, as people call models and vendors, as the catalog has them; "80억" is 8b."""
    text = unicodedata.normalize("NFKC", text)
    if not OTHER_SCRIPTS.search(text):
        return text
    text = HUNDRED_MILLIONS.sub(lambda found: f" {float(found[1]) / 10:g}b ", text)
    for said, meant in _scripts():
        text = text.replace(said, f" {meant} ")
    return text


@cache
def _scripts() -> list[tuple[str, str]]:
    """(word, Latin), the longest first, so that a word within another one is not taken for it."""
    table = json.loads(resources.files("trilens.spec.catalog").joinpath("scripts.json").read_text("utf-8"))
    return sorted(table.items(), key=lambda row: -len(row[0]))
