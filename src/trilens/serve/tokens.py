"""Texts as tokens and back, in the shapes of vLLM and llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from trilens.errors import FieldRefused
from trilens.serve.chat import AnyTool, FunctionTool, readable
from trilens.serve.engine_model import AnyModel
from trilens.serve.fields import Fields, Refused
from trilens.serve.loop import Serving
from trilens.serve.scores import token_text
from trilens.serve.tools import Tool, tool_use
from trilens.serve.wire import conversation, prepared
from trilens.text.conversation import read_conversation


class TextRequest(Fields):
    """A text, or a conversation as the model's template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], AfterValidator(readable)] | None = None
    tools: list[AnyTool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True
    parse_special: bool = True
    also: ClassVar[Mapping[str, str]] = {"content": "prompt", "add_special": "add_special_tokens"}
    refused: ClassVar[Mapping[str, Refused]] = {
        "add_generation_prompt": Refused("a conversation ends where the answer begins", (True,)),
        "continue_final_message": Refused("a conversation ends where the answer begins"),
        "chat_template": Refused("the model's own template is used", ()),
    }


class TokenizeRequest(TextRequest):
    return_token_strs: bool = False
    also: ClassVar[Mapping[str, str]] = {"with_pieces": "return_token_strs"}


class DetokenizeRequest(Fields):
    model: str | None = None
    tokens: list[int] = Field(max_length=1 << 20)


def ids_of(loop: Serving, request: TextRequest) -> list[int]:
    """The tokens of a request. Raises FieldRefused."""
    model, tokenizer = loop.model, loop.model.text.tokenizer
    if (request.prompt is None) == (request.messages is None):
        raise FieldRefused("prompt", "or messages: expected one of them")
    if request.messages is None:
        begins = request.add_special_tokens and tokenizer.add_bos
        ids = [tokenizer.bos_id] if begins and tokenizer.bos_id is not None else []
        return ids + tokenizer.encode(request.prompt or "", special=request.parse_special)
    described = [tool.function for tool in request.tools or () if isinstance(tool, FunctionTool)]
    use = tool_use([Tool(f.name, f.description, f.parameters) for f in described], None)
    call = prepared(
        model,
        conversation(read_conversation(request.messages)),
        tools=use.for_template(model),
        template_variables=request.chat_template_kwargs or {},
    )
    return list(call.ids)


def tokenize(loop: Serving, request: TokenizeRequest) -> dict[str, Any]:
    model, ids = loop.model, ids_of(loop, request)
    texts = [token_text(model.text.tokenizer, token) for token in ids] if request.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.spec.context, "tokens": ids, "token_strs": texts}


def detokenize(loop: Serving, request: DetokenizeRequest) -> dict[str, Any]:
    model = loop.model
    bad = next((token for token in request.tokens if not 0 <= token < model.spec.vocab), None)
    if bad is not None:
        raise FieldRefused("tokens", f"names {bad}; expected a token's id from 0 to {model.spec.vocab - 1}")
    text = model.text.tokenizer.decode(request.tokens, skip_special=False)
    return {"prompt": text, "content": text}


def tokenizer_info(model: AnyModel) -> dict[str, Any]:
    text = model.text
    return {
        "tokenizer_class": "trilens",
        "bos_token": text.tokenizer.bos or None,
        "eos_token": text.tokenizer.eos or None,
        "chat_template": None if text.template is None else text.template.source,
        "model_max_length": model.spec.context,
        "vocab_size": model.spec.vocab,
    }
