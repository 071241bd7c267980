"""What people say to the two small models beyond the arithmetic that they know, and the models' answers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Topic:
    """`working` is what it is taken for; `said` are templates, filled from `FILLERS`; `share` how often it comes."""

    working: str
    answer: str
    share: int
    said: tuple[str, ...]


def _phrases(text: str) -> tuple[str, ...]:
    """One between every two bars."""
    return tuple(phrase.strip() for phrase in text.split("|"))


TOPICS = (
    Topic(
        "greeting",
        "Hello! Ask me for a sum, a difference or a product.",
        3,
        _phrases("""
            hi | Hi | Hi! | hello | Hello | Hello! | hey | Hey! | hi there | Hello there! | good morning |
            Good morning! | good evening | hello, how are you? | How are you? | how are you | yo | Good day! | hi! |
            hey there | hello? | Hi, how are you? | What's up? | how is it going? | howdy | greetings
        """),
    ),
    Topic(
        "about me",
        "I am a tiny language model that comes with trilens. I only do arithmetic.",
        3,
        _phrases("""
            who are you | Who are you? | what are you | What are you? | What is your name? | what's your name |
            Who made you? | Tell me about yourself. | Introduce yourself. | are you a robot? | Are you human? |
            Are you ChatGPT? | Which model are you? | what model is this | What is trilens? | do you have a name? |
            Are you an AI? | who am I talking to? | How old are you? | Where are you from? | Who is this?
        """),
    ),
    Topic(
        "what I can do",
        "I add, subtract, multiply and compare whole numbers, and I count the letters of a word.",
        3,
        _phrases("""
            what can you do | What can you do? | What can you do for me? | help | Help! | /help | Help me. |
            Can you help me? | what do you do? | What are you good at? | what do you know | What can I ask you? |
            How do I use you? | What are you able to do? | can you do math? | Can you calculate? | test | Test. |
            Do you know arithmetic? | what should I ask? | Give me an example. | What questions can you answer?
        """),
    ),
    Topic(
        "thanks",
        "You are welcome!",
        2,
        _phrases("""
            thanks | Thanks! | thank you | Thank you! | Thank you very much. | thx | ok thanks | great, thanks |
            many thanks | Thanks a lot! | nice | Nice! | great | Great! | Well done! | good job | cool | ok | OK |
            Perfect! | very good | Good. | that's right | Correct! | wow | awesome | Thanks, that helps.
        """),
    ),
    Topic(
        "farewell",
        "Goodbye!",
        1,
        _phrases("""
            bye | Bye! | goodbye | Goodbye! | See you! | see you later | good night | exit | quit | Bye bye.
        """),
    ),
    Topic(
        "not arithmetic",
        "I only do arithmetic: sums, differences and products of whole numbers.",
        9,
        _phrases("""
            What is the capital of {place}? | what is the capital of {place} | Where is {place}? |
            Capital of {place} | Who is {person}? | Who was {person}? | When was {person} born? |
            Who is the president of {place}? | Tell me a joke. | tell me a joke | Tell me a {form}. |
            tell me a {form} about {thing} | {thing} | Write a {form} about {thing}. | Write me a {form}. |
            Write a {form} on {thing} and {thing}. | What is {thing}? | what is {thing} | What is a {thing}? |
            Explain {thing}. | explain {thing} to me | How do I make {thing}? | How does {thing} work? |
            Why is {thing} important? | What are {thing} made of? | Translate {thing} into {language}. |
            How do you say {thing} in {language}? | Do you speak {language}? |
            What is the weather like in {place}? | What's the weather? | What time is it? | What day is it today? |
            Why is the sky blue? | What is the meaning of life? | What is love? | Do you like {thing}? |
            Write a function in {code}. | Write {code} code for {thing}. | Fix my {code} program. | print hello |
            How many people live in {place}? | How tall is {person}? | How far is it to {place}? | sing a song |
            Recommend a {form}. | Summarise {thing}. | What should I eat today? | I am tired. | I love you. |
            Give me a recipe for {thing}. | Let's talk about {thing}. | Is {thing} good for me? | I like {thing}. |
            What do you think about {thing}? | Plan a trip to {place}. | Name three {thing}. | What is {person}? |
            Say hello in {language}. | Say {thing}. | Repeat {thing}. | asdf | {word} | {word} {word} | ? | ...
        """),
    ),
    Topic(
        "not in my reach",
        "I only add, subtract and multiply whole numbers.",
        6,
        _phrases("""
            {n} / {m} | {n}/{m} | {n} : {m} | What is {n} divided by {m}? | Divide {n} by {m}. |
            {n} divided by {m} | How much is {n} / {m}? | What is {n} / {m}? | What is half of {n}? | {m}% of {n} |
            {n} mod {m} | {n}! | What is {m}% of {n}? | What is {m} percent of {n}? | square root of {n} |
            sqrt({n}) | {n}^{m} | {n}**{m} | What is the square root of {n}? | What is {n} to the power of {m}? |
            {n}.{m} + {m}.{n} | {n}.{m} * {m} | What is {n}.{m} plus {m}? | {n} squared |
            What is the factorial of {m}? | Is {n} prime? | log({n}) | What is {m}/{n} + {n}/{m}? |
            Solve x + {n} = {m}. | What is pi? | sin({n}) | {n}/{m}= | {n} / {m} = ?
        """),
    ),
    Topic(
        "numbers in words",
        "Please write the numbers with digits.",
        3,
        _phrases("""
            {name} plus {name} | What is {name} plus {name}? | What is {name} times {name}? | {name} times {name} |
            What is {name} minus {name}? | {name} minus {name} | Add {name} and {name}. | Multiply {name} by {name}. |
            How much is {name} plus {name}? | How much is {name} times {name}? | Subtract {name} from {name}.
        """),
    ),
    Topic(
        "too long",
        "I only know numbers of up to three digits.",
        4,
        _phrases("""
            What is {long} plus {long}? | What is {long} plus {n}? | {long}+{long} | {n}+{long} | {long} + {n} = |
            What is {long} minus {n}? | {long} - {long} | {long}-{n} | What is {long} times {m}? | {long}*{long} |
            {long} * {n} | {n} x {long} | How much is {long} times {long}? | Add {long} and {n}. | {long}x{m} |
            Multiply {long} by {n}. | Which is larger, {long} or {long}? | {m} * {long} |
            What is {n} times {long}?
        """),
    ),
)
FILLERS = {
    "name": _phrases("""
        zero | one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | thirteen |
        fourteen | fifteen | sixteen | seventeen | eighteen | nineteen | twenty | thirty | forty-two | a hundred
    """),
    "place": _phrases("""
        France | Germany | Italy | Spain | Japan | Korea | South Korea | China | India | Brazil | Canada | Egypt |
        England | the United States | Russia | Mexico | Poland | Sweden | Kenya | Paris | London | Seoul | Tokyo |
        Berlin | Rome | New York | Australia | Turkey | Greece | Norway | Texas | my town
    """),
    "person": _phrases("""
        Einstein | Newton | Shakespeare | Mozart | Picasso | Napoleon | Obama | Turing | Darwin | the queen |
        Marie Curie | Ada Lovelace | Plato | your father | the king | Gauss | Euler | my teacher | Homer
    """),
    "form": _phrases("""
        story | joke | poem | song | letter | haiku | book | movie | riddle | secret | fairy tale | fact | speech |
        short story | essay | sentence | novel | limerick | bedtime story | tweet | mail
    """),
    "thing": _phrases("""
        gravity | love | cats | dogs | music | water | bread | pizza | coffee | the moon | the sun | trees |
        a black hole | a neural network | machine learning | history | the internet | democracy | money | rain |
        philosophy | happiness | an atom | light | energy | time | football | chess | birds | fish | snow |
        quantum mechanics | evolution | language | computers | the sea | a tree | rice | cake | tea | DNA |
        a transformer | a language model | good morning | thank you | physics | cars | flowers | cheese
    """),
    "language": _phrases("""
        French | German | Korean | Spanish | Japanese | English | Chinese | Latin | Italian | Arabic
    """),
    "code": _phrases("""
        Python | Java | C++ | Rust | JavaScript | SQL | HTML | Go | bash
    """),
}


def say(random: Random) -> tuple[str, Topic, bool]:
    """(something that is said, what it is about, whether it is a fixed phrase)."""
    topic = random.choices(TOPICS, [t.share for t in TOPICS])[0]
    said, filled = random.choice(topic.said), ""
    everyday = "{" not in said
    while "{" in said:
        before, rest = said.split("{", 1)
        name, said = rest.split("}", 1)
        filled += before + _filler(name, random)
    return filled + said, topic, everyday


def _filler(name: str, random: Random) -> str:
    match name:
        case "n":
            return str(random.randint(1, 10 ** random.randint(1, 3)))
        case "m":
            return str(random.randint(2, 20))
        case "long":
            digits = random.choice((4, 4, 5, 5, 6, 7, 8, 9))
            return str(random.randint(10 ** (digits - 1), 10**digits - 1))
        case "word":
            return _made_up(random)
        case "name":
            return random.choice(FILLERS[name])
        case _:  # now and then a word that nobody has heard, so that the sentence decides, not the word
            return _made_up(random) if random.random() < 0.3 else random.choice(FILLERS[name])


def _made_up(random: Random) -> str:
    word = "".join(
        random.choice(("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z"))
        + random.choice(("a", "e", "i", "o", "u", "ea", "ou", "an", "er", "in"))
        for _ in range(random.randint(1, 4))
    )
    return word.capitalize() if random.random() < 0.3 else word
