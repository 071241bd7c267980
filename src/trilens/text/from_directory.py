"""A directory of a checkpoint -> Vocabulary.

The first of these that is there is read: tokenizer.json, tokenizer.model, tekken.json, tiktoken.model,
qwen.tiktoken. What begins and ends a text comes from tokenizer_config.json, special_tokens_map.json,
generation_config.json and config.json.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.text.file_limits import check_tokenizer_json, read_bytes
from trilens.text.ranks import looks_like_tiktoken, read_tekken, read_tiktoken
from trilens.text.sentencepiece_model import read_sentencepiece_vocabulary
from trilens.text.spelling import Spelling
from trilens.text.vocabulary import Vocabulary, known_ends

FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "tiktoken.model", "qwen.tiktoken")


def read_directory_vocabulary(directory: Path) -> Vocabulary:
    """The vocabulary in a directory, with its ends and beginnings.

    Raises BadCheckpoint if there is no tokenizer file or one is damaged, UnsupportedModel for kinds that are not
    known here.
    """
    config = {
        **read_json_object(directory / "special_tokens_map.json"),
        **read_json_object(directory / "tokenizer_config.json"),
    }
    model_config, generation = (
        read_json_object(directory / "config.json"),
        read_json_object(directory / "generation_config.json"),
    )
    path = next((path for name in FILES if (path := directory / name).is_file()), None)
    if path is None:
        raise BadCheckpoint(f"{directory}: no tokenizer; expected one of {', '.join(FILES)}")
    vocabulary = _read(path, config)

    engine = vocabulary.engine
    bos_id = vocabulary.bos_id
    if "bos_token" in config:
        bos_id = _id_of(engine, config["bos_token"])
    elif bos_id is None:
        bos_id = next(iter(_stated(path, generation, model_config, "bos_token_id")), None)
    stated = _stated(path, generation, model_config, "eos_token_id")
    eos_id = _id_of(engine, config.get("eos_token"))
    if eos_id is None:
        eos_id = next(iter(stated), vocabulary.eos_id)
    ends = set(stated or vocabulary.eos_ids) | ({eos_id} if eos_id is not None else set())
    if "eos_token_id" not in generation:
        added = engine.get_added_tokens_decoder()
        ends |= known_ends({token.content: i for i, token in added.items() if token.special})

    add_bos = config.get("add_bos_token")
    if add_bos is None:
        add_bos = vocabulary.add_bos if path.name != "tokenizer.json" else _begins_with(engine, bos_id)
    return replace(vocabulary, bos_id=bos_id, eos_id=eos_id, eos_ids=frozenset(ends), add_bos=bool(add_bos))


def _read(path: Path, config: Mapping[str, Any]) -> Vocabulary:
    match path.name:
        case "tokenizer.json":
            return _read_tokenizer_json(path)
        case "tokenizer.model" if not looks_like_tiktoken(path):
            return read_sentencepiece_vocabulary(path)
        case "tekken.json":
            return read_tekken(path)
        case _:
            return read_tiktoken(path, config)


def _read_tokenizer_json(path: Path) -> Vocabulary:
    data = read_bytes(path)
    try:
        check_tokenizer_json(path, json.loads(data))
        engine = Tokenizer.from_buffer(data)
    except BadCheckpoint:
        raise
    except BaseException as fault:  # a panic in the Rust library is not an Exception
        if isinstance(fault, (KeyboardInterrupt, SystemExit)):
            raise
        line = (str(fault) or type(fault).__name__).splitlines()[0]
        raise BadCheckpoint(f"{path}: not a tokenizer that the tokenizers library can read ({line})") from None
    engine.no_truncation()
    engine.no_padding()
    spelling = _spelling(path, engine)
    added = engine.get_added_tokens_decoder()
    ids = frozenset(engine.get_vocab(with_added_tokens=False).values())
    return Vocabulary(
        engine=engine,
        ids=ids,
        spelling=spelling,
        raw=frozenset(added) if spelling.byte_level else frozenset(),
        bos_id=None,
        eos_id=None,
        eos_ids=frozenset(),
        add_bos=False,
        size=1 + max([*ids, *added], default=-1),
    )


def _spelling(path: Path, engine: Tokenizer) -> Spelling:
    """How its decoder reads tokens. Raises UnsupportedModel for a decoder that is no language model's."""
    if engine.decoder is None:
        raise UnsupportedModel(f"{path}: it has no decoder, so its tokens cannot be made text again")
    state = json.loads(engine.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    spelling = Spelling(byte_level=False)
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:
                spelling = replace(spelling, byte_level=True)
            case {"type": "Metaspace", "replacement": mark}:
                prefixed = step.get("prepend_scheme", "always") != "never"
                spelling = replace(spelling, space_mark=mark, leading_space=prefixed)
            case {"type": "Replace", "pattern": {"String": mark}, "content": " "}:
                spelling = replace(spelling, space_mark=mark)
            case {"type": "ByteFallback"}:
                spelling = replace(spelling, byte_tokens=True)
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                spelling = replace(spelling, leading_space=True)
            case {"type": "Fuse"}:
                pass
            case _:
                raise UnsupportedModel(f"{path}: decoder {json.dumps(step)[:120]} is not supported")
    return spelling


def _begins_with(engine: Tokenizer, bos_id: int | None) -> bool:
    """Whether the file's own post-processor puts BOS first."""
    return bos_id is not None and engine.encode("a").ids[:1] == [bos_id]


def _id_of(engine: Tokenizer, token: object) -> int | None:
    """The id of a token given by its text, or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    return engine.token_to_id(text) if isinstance(text, str) else None


def _stated(path: Path, generation: Mapping[str, Any], model: Mapping[str, Any], key: str) -> list[int]:
    """The ids under a key of generation_config.json, else of config.json."""
    value = generation.get(key, model.get(key))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and i >= 0 for i in ids):
        raise BadCheckpoint(f"{path.parent}: {key} is {value!r}; expected a token id or a list of them")
    return ids


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a file, {} if there is no such file. Raises BadCheckpoint if it holds no JSON object."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise BadCheckpoint(f"{path}: not an ordinary file; remove it, or download it again")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as fault:
        raise BadCheckpoint(f"{path}: cannot be read ({fault.strerror}); download it again") from None
    except (ValueError, RecursionError) as fault:
        raise BadCheckpoint(f"{path}: not JSON ({fault}); download it again") from None
    if not isinstance(document, dict):
        raise BadCheckpoint(f"{path}: holds {type(document).__name__}; expected a JSON object")
    return document
