"""How byte-level vocabularies cut text into words before merging: data, by the names that GGUF files use.

GGUF stores only a name (`tokenizer.ggml.pre`); the patterns behind it are those of the models' own tokenizer.json,
tekken.json or tiktoken code. Where llama.cpp simplifies a pattern (its regex engine knows neither `(?i:)` nor
`\\p{Lu}`), the model's own form stands here, because that is what the model was trained with.

A name that is not here raises `UnsupportedModel`: guessing a pattern would change the ids without a sign.
"""

from dataclasses import dataclass

from trilens.errors import UnsupportedModel


@dataclass(frozen=True)
class PreTokenizer:
    """Patterns are applied one after the other; a match becomes a piece, and so does the text between two matches."""

    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is taken whole, whatever the merges would make of it
    add_bos: bool = False  # a plain prompt starts with BOS, unless the file says otherwise


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = rf"{_CONTRACTION}|{_HEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TEKKEN = (
    rf"{_HEAD}[{_UPPER}]*[{_LOWER}]+|{_HEAD}[{_UPPER}]+[{_LOWER}]*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O = (
    rf"{_HEAD}[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}?|{_HEAD}[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI = (
    rf"[\p{{Han}}]+|{_HEAD}[{_UPPER}{_NOT_HAN}]*[{_LOWER}{_NOT_HAN}]+{_CONTRACTION}?"
    rf"|{_HEAD}[{_UPPER}{_NOT_HAN}]+[{_LOWER}{_NOT_HAN}]*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_ASCII_SYMBOL = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_KANA_AND_HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _KANA_AND_HAN,
    rf"{_ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
# Letters of the alphabets that have a case, as DeepSeek's first tokenizer lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_gpt2 = PreTokenizer((_GPT2,))
_digits = PreTokenizer((r"\p{N}", _GPT2))  # every digit alone, then as GPT-2
_llama3 = PreTokenizer((_LLAMA3,))
_qwen2 = PreTokenizer((_QWEN2,))
_gpt4o = PreTokenizer((_GPT4O,))
_deepseek3 = PreTokenizer(_DEEPSEEK3)
_bloom = PreTokenizer((" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",))
_bailing = PreTokenizer((_BAILING,))
_glm4 = PreTokenizer((_LLAMA3,), whole_words=True)
_llama_bpe = PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True)

PRETOKENIZERS: dict[str, PreTokenizer] = {
    # GPT-2's own pattern
    "gpt-2": _gpt2,
    "phi-2": _gpt2,
    "mpt": _gpt2,
    "olmo": _gpt2,
    "jais": _gpt2,
    "trillion": _gpt2,
    "granite-docling": _gpt2,
    "gigachat": _gpt2,
    "a.x-4.0": _gpt2,
    "mellum": _gpt2,
    "exaone4": _gpt2,
    # every digit alone
    "smollm": _digits,
    "starcoder": _digits,
    "refact": _digits,
    "command-r": _digits,
    "codeshell": _digits,
    "exaone": _digits,
    "minerva-7b": _digits,
    "mellum2": _digits,
    # Llama 3: digits in threes
    "llama3": _llama_bpe,
    "llama-v3": _llama_bpe,
    "llama-bpe": _llama_bpe,
    "falcon3": _llama_bpe,
    "falcon-h1": _llama_bpe,
    "pixtral": _llama_bpe,
    "midm-2.0": _llama_bpe,
    "lfm2": _llama_bpe,
    "dbrx": _llama3,
    "smaug-bpe": _llama3,
    "chatglm-bpe": _llama3,
    "glm4": _glm4,
    "glm5": _glm4,
    "jais-2": PreTokenizer(
        (
            rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|"
            + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"|\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"), whole_words=True
    ),
    # Qwen: every digit alone
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "kormo": _qwen2,
    "megrez": _qwen2,
    "stablelm2": _qwen2,
    "hunyuan": _qwen2,
    "solar-open": _qwen2,
    "grok-2": _qwen2,
    "qwen35": PreTokenizer((_QWEN35,)),
    "seed-coder": PreTokenizer(
        (rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    ),
    "bailingmoe": _bailing,
    "bailingmoe2": _bailing,
    "llada-moe": _bailing,
    "exaone-moe": PreTokenizer(
        (
            rf"{_CONTRACTION}|{_HEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    # o200k: words break where lower case turns to upper
    "gpt-4o": _gpt4o,
    "llama4": _gpt4o,
    "kanana2": _gpt4o,
    "minimax-m2": _gpt4o,
    "tiny_aya": PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    "cohere2moe": PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    "kimi-k2": PreTokenizer((_KIMI,)),
    # DeepSeek
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _EAST_ASIAN,
            r"\p{N}",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")),
    "deepseek-v3": _deepseek3,
    "hunyuan-dense": _deepseek3,
    "joyai-llm": _deepseek3,
    "hy_v4": _deepseek3,
    # others
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "bloom": _bloom,
    "poro-chat": _bloom,
    "gpt3-finnish": _bloom,
    "viking": PreTokenizer((*_bloom.patterns, r"\p{N}")),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
}


def pretokenizer(name: object) -> PreTokenizer:
    """The entry of that name; raises UnsupportedModel for a name that is not in the table."""
    if not isinstance(name, str) or name not in PRETOKENIZERS:
        raise UnsupportedModel(
            f"pre-tokenizer {name!r} is not supported; supported are {', '.join(sorted(PRETOKENIZERS))}; "
            "use the model's own tokenizer.json instead"
        )
    return PRETOKENIZERS[name]
