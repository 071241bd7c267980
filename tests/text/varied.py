"""Texts on which tokenizers disagree, made by seeded code: the same 2,000 on every machine."""

# ruff: noqa: RUF001  (look-alike characters are the point)

import random

EDGES = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x00\x01\x02\x7f",
    "\xa0",
    " \xa0 ",
    "Hello",
    " Hello",
    "Hello ",
    "Hello, world!",
    "don't we'll I'VE they'Re 'S 'ſ",
    "2²½ ٣٤ ௧௨ Ⅻ ① 3.14 1,000,000 00000000000000000000",
    "<|im_start|>user\nhi<|im_end|>",
    "<|im_start|",
    "<|endoftext|><|endoftext|>",
    "<s>[INST] hi [/INST]</s>",
    "<unk><pad>",
    "<0x0A>",
    "▁▁ ▁a",
    "ĠĊ",
    "def f(x):\n    return x  # \ttab\n\n\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\r\n",
    "a" * 500,
    " " * 300,
    "\n" * 40,
    "=" * 100,
    "👩‍👩‍👧‍👦👍🏽🇰🇷",
    "안녕하세요, 세계!",
    "한국어 띄어쓰기 가나다라마바사",
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "你好，世界！这是一个测试。",
    "こんにちは世界カタカナ",
    "สวัสดีชาวโลก",
    "हिन्दी में लिखा हुआ",
    "naïve café Ünïcödé ǅ ß ﬁ",
    "e\u0301 a\u0308 n\u0303",
    "\u200b\u200d\ufeff\u2028\u2029\u0085",
    "\U0001f600\U0010ffff\ue000\ufffd",
    "\u1680\u2003\u3000x",
    "https://example.com/a?b=c&d=%20#e",
    '{"key": [1, 2.5e-3, null, true]}',
    "$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$",
    "ALLCAPS camelCase snake_case kebab-case PascalCaseXML",
]

SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\xa0", "\u3000", "\x0b", "\x0c", " \n", "\n "]
PIECES = [
    *"the of and to in that it is was for on with as by at from".split(),
    *"'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ll ' ''".split(),
    *"Hello WORLD iPhone McDonald über façade Ελλάδα Привет ДОМ".split(),
    *"안녕 하세요 한글 日本 漢字 中文 测试 ひらがな カタカナ مرحبا سلام שלום สวัสดี नमस्ते".split(),
    *"0 7 42 123 1234 12345678 3.14 1e-9 0xFF ² ½ ٣ ௧ Ⅷ ① ７".split(),
    *'! ? . , ; : - – — … _ __ = == => -> ++ // /* */ <!-- --> $ € £ % & * ( ) [ ] { } | ~ ` @ # ^ \\ " « »'.split(),
    *"def return class import lambda self.x x+=1 if(a&&b) std::vector<int> foo() #include".split(),
    *"😀 👍🏽 👨‍👩‍👧 🇰🇷 ❤️ ✨ 🏳️‍🌈".split(),
    *"<|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <s> </s> <think> </think> <0x20> [INST]".split(),
    *"e\u0301 o\u0308 \u0301 \u200d \u200b \ufeff \u00ad".split(),
]
RANGES = [(0x00, 0x7F), (0x80, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0x1100, 0x11FF)]
RANGES += [(0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)]


def varied_texts(count: int = 2000, seed: int = 2) -> list[str]:
    """EDGES first, then texts joined from pieces, from single characters, and from words with odd spaces."""
    draw = random.Random(seed)
    texts = list(EDGES)
    while len(texts) < count:
        length = draw.choice([1, 2, 3, 5, 8, 13, 21])
        kind = draw.randrange(4)
        if kind == 0:
            parts = [draw.choice(PIECES) + draw.choice(["", "", " ", draw.choice(SPACES)]) for _ in range(length)]
        elif kind == 1:
            low, high = draw.choice(RANGES)
            parts = [chr(draw.randint(low, high)) for _ in range(length)]
        elif kind == 2:
            parts = [chr(draw.randint(*draw.choice(RANGES))) for _ in range(length)]
        else:
            parts = [draw.choice(SPACES) if draw.random() < 0.4 else draw.choice(PIECES) for _ in range(length)]
        texts.append("".join(parts))
    return texts
