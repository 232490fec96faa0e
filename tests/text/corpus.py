"""Texts that tokenizers get wrong, made the same way every time."""

from __future__ import annotations

import random
import unicodedata

LANGUAGES = [
    "The quick brown fox doesn't jump; it's LAZY, we've seen. I'LL, You'Re, they'D.",
    "深度求索与通义千问：人工智能模型的推理引擎，支持２０２５年的硬件。繁體中文也要測試。",
    "カタカナとひらがな、漢字が混ざった文章です。ｶﾀｶﾅ半角も。",
    "한국어 텍스트도 잘 나누어져야 합니다. 자모 ㄱㄴㄷ 와 조합 한글.",
    "Привет, мир! Съешь ещё этих мягких французских булок.",
    "مرحبا بالعالم، هذا نص عربي مع تَشْكِيل.",
    "שלום עולם עִם נִקּוּד",
    "नमस्ते दुनिया, यह हिन्दी का पाठ है। क्षत्रिय",
    "สวัสดีครับ ผมชื่ออเล็กซ์",
    "Ελληνικά: Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Tiếng Việt có dấu: ă â đ ê ô ơ ư, nghĩa là gì?",
    "Übergrößenträger, naïve façade, cœur, Ærøskøbing, ıstanbul İSTANBUL ǅ",
    "አማርኛ ქართული հայերեն ಕನ್ನಡ தமிழ் తెలుగు 𐐀𐐨 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]
CODE = [
    "def f(x: int) -> str:\n\treturn f'{x!r:>10}'\n\n\nclass A(B):\n    pass\n",
    '#include <stdio.h>\r\nint main(void)\r\n{\r\n\tprintf("%d\\n", 0x7fff);\r\n}\r\n',
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x''y'; -- done",
    "const x = async (a) => { await b?.c ?? d; }; // ok\n",
    '{"key": [1, 2.50, -3e10, null, true], "k2": "v\\u00e9"}',
    "<html><body class='a'>&nbsp;</body></html>",
    "x=1;y=22;z=333;w=4444;v=55555;1234567890 3.14159 1,000,000 ٣٤٥ ४५६ ½ ² Ⅷ",
    "a   b    c\t\td \n \n\n  e \u00a0f\u2003g\u3000h\u200bi\ufeffj",
    "$\\int_0^\\infty e^{-x^2} dx = \\frac{\\sqrt{\\pi}}{2}$ ∑∏√∞≠≤",
]
EMOJI = ["😀😃👍🏽 👨‍👩‍👧‍👦 🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️‍🔥 ☃︎ 1️⃣", "\u202eright to left\u202c e\u0301\u0323 o\u0308 \u1e9b\u0323 ﬁ Å Å"]
CONTROL = [
    "\x00\x01\x02 \x07\x08\x0b\x0c\x1b[31m\x7f\x80\x85\x9f",
    "\ufffd \ufffe \uffff \U0010ffff \u2028\u2029",
    "\r\r\n\n\r",
    "",
]
LONG = ["a" * 3000, " " * 3000, "\n" * 500, "ab " * 1500, "中" * 2000, "0" * 1000, "=-" * 800, "é" * 1000]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of characters drawn from all planes and of pieces of the others."""
    draw = random.Random(seed)
    pieces = [*LANGUAGES, *CODE, *EMOJI, *CONTROL]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 8)):
            if draw.random() < 0.5:
                source = draw.choice(pieces)
                start = draw.randint(0, len(source))
                parts.append(source[start : start + draw.randint(0, 20)])
            else:
                top = draw.choice([0x80, 0x250, 0x3000, 0xD7FF, 0x1FFFF])
                parts.append("".join(chr(draw.randint(1, top)) for _ in range(draw.randint(1, 6))))
        texts.append("".join(character for text in parts for character in text if not 0xD800 <= ord(character) < 0xE000))
    return texts


def corpus(num_random: int = 300) -> list[str]:
    """All of it."""
    return [*LANGUAGES, *CODE, *EMOJI, *CONTROL, *LONG, *random_texts(num_random)]


def composed(text: str) -> bool:
    """Whether a text is in Unicode NFC, which some references skip."""
    return unicodedata.is_normalized("NFC", text)
