"""How people ask for arithmetic: textbook sentences, and what is typed into a chat."""

from __future__ import annotations

from random import Random

WORDINGS: dict[str, tuple[str, ...]] = {
    "sum": (
        "What is {a} plus {b}?",
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "What's {a} plus {b}?",
        "What's {a}+{b}?",
        "{a}+{b}",
        "{a} + {b}",
        "{a}+{b}=",
        "{a} + {b} =",
        "{a} + {b} = ?",
        "{a}+{b}=?",
        "{a}+{b}?",
        "{a} plus {b}",
        "{a} and {b} is what?",
        "Add {a} and {b}.",
        "Add {b} to {a}.",
        "How much is {a} + {b}?",
        "How much is {a} plus {b}?",
        "Calculate {a} + {b}.",
        "Compute {a}+{b}.",
        "Calculate the sum of {a} and {b}.",
        "What is the sum of {a} and {b}?",
        "Can you add {a} and {b}?",
        "What do {a} and {b} make?",
        "I have {a} apples and get {b} more. How many apples do I have?",
        "Anna has {a} coins and finds {b} more. How many coins does she have?",
    ),
    "difference": (
        "What is {a} minus {b}?",
        "What is {a} minus {b}?",
        "What is {a} - {b}?",
        "What's {a} minus {b}?",
        "What's {a}-{b}?",
        "{a}-{b}",
        "{a} - {b}",
        "{a}-{b}=",
        "{a} - {b} =",
        "{a} - {b} = ?",
        "{a}-{b}?",
        "{a} minus {b}",
        "Subtract {b} from {a}.",
        "Take {b} from {a}.",
        "Take {b} away from {a}.",
        "How much is {a} - {b}?",
        "How much is {a} minus {b}?",
        "Calculate {a} - {b}.",
        "Compute {a}-{b}.",
        "Calculate the difference of {a} and {b}.",
        "Can you subtract {b} from {a}?",
        "I have {a} apples and eat {b}. How many are left?",
        "A shelf holds {a} books. {b} are taken away. How many books are left?",
    ),
    "product": (
        "What is {a} times {b}?",
        "What is {a} times {b}?",
        "What is {a} * {b}?",
        "What is {a} x {b}?",
        "What's {a} times {b}?",
        "What's {a}*{b}?",
        "{a}*{b}",
        "{a} * {b}",
        "{a}x{b}",
        "{a} x {b}",
        "{a} \N{MULTIPLICATION SIGN} {b}",
        "{a}*{b}=",
        "{a} * {b} =",
        "{a} x {b} =",
        "{a} * {b} = ?",
        "{a} times {b}",
        "Multiply {a} by {b}.",
        "Multiply {a} and {b}.",
        "How much is {a} * {b}?",
        "How much is {a} times {b}?",
        "Calculate {a} * {b}.",
        "Compute {a}*{b}.",
        "Calculate the product of {a} and {b}.",
        "What is the product of {a} and {b}?",
        "What is {a} multiplied by {b}?",
        "Can you multiply {a} by {b}?",
        "A box holds {a} pens. How many pens are in {b} boxes?",
    ),
    "chain": (
        "What is {a} {first} {b}, then {second} {c}?",
        "Take {a} {first} {b}. What is the result {second} {c}?",
        "Start with {a} {first} {b}, then {second} {c}. What do you get?",
    ),
    "in a row": (  # for chains whose order of operations is the order of reading
        "What is {a} {first} {b} {second} {c}?",
        "{a} {first} {b} {second} {c}",
        "{a} {one} {b} {two} {c}",
        "{a}{one}{b}{two}{c}",
        "What is {a} {one} {b} {two} {c}?",
    ),
    "comparison": (
        "Which is larger, {a} or {b}?",
        "Which number is bigger: {a} or {b}?",
        "Name the larger one of {a} and {b}.",
        "What is bigger, {a} or {b}?",
        "Is {a} or {b} larger?",
    ),
    "letters": (
        'How many times does the letter "{letter}" occur in "{word}"?',
        'Count the letter "{letter}" in the word "{word}".',
        'How many "{letter}" are in "{word}"?',
    ),
}
WORDINGS["negative"] = WORDINGS["difference"][:-2]  # nobody has fewer than no apples
WORDINGS["product3"] = WORDINGS["product"][:-1]

BEFORE = (
    "please ",
    "please ",
    "hi, ",
    "hello, ",
    "hey, ",
    "ok, ",
    "and ",
    "now ",
    "so ",
    "tell me: ",
    "can you tell me ",
)
AFTER = (" please", " please", ", please", " thanks", "!", "??", " ")


def plain(wording: str) -> str:
    """What a wording keeps however it is typed: "{a}+{b}" of "{a}+{b}=", and of whatever `as_typed` makes of both."""
    return wording.lower().rstrip(" .?=")


def as_typed(text: str, random: Random) -> str:
    """More than half as written; the others as somebody in a hurry types, or somebody polite."""
    if random.random() < 0.55:
        return text
    if random.random() < 0.6:
        text = text[0].lower() + text[1:]
    if random.random() < 0.5:
        text = text.rstrip(".?") or text
    if random.random() < 0.25:
        before = random.choice(BEFORE)
        text = (before if random.random() < 0.5 else before.capitalize()) + text[0].lower() + text[1:]
    elif random.random() < 0.25:
        text = (text.rstrip(".?") or text) + random.choice(AFTER)
    return text
