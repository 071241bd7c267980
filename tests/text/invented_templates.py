"""Chat templates of models that do not exist, each with a form of calls that no real template has."""

from __future__ import annotations

from trilens.text.template import ChatTemplate
from trilens.text.tokenizer import Tokenizer
from trilens.text.tool_formats import NAME, Json, ToolFormat

OPENING = """{% for m in messages %}{% if m.role == 'user' %}«user» {{ m.content }} «end»
{% elif m.role == 'tool' %}«tool» {{ m.content }} «end»
{% elif m.role == 'assistant' %}«model» {% if m.content %}{{ m.content }}{% endif %}{% if m.tool_calls %}"""
CLOSING = """{% endif %} «end»
{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}
{% endif %}{% if add_generation_prompt %}«model» {% endif %}"""

CALLS = {
    # JSON, the arguments before the name, in a list between markers
    "json": """<<acts>>[{% for c in m.tool_calls %}{{ {'with': c.function.arguments, 'do': c.function.name, """
    """'ref': c.id} | tojson }}{% if not loop.last %}; {% endif %}{% endfor %}]<</acts>>""",
    # the name outside the JSON, each call with markers of its own
    "named": """{% for c in m.tool_calls %}\n[[RUN {{ c.function.name }} #{{ loop.index }}]]\n"""
    """{{ c.function.arguments | tojson }}\n[[DONE]]{% endfor %}""",
    # tags of each argument's own name
    "tags": """<work>{% for c in m.tool_calls %}<step tool='{{ c.function.name }}'>{% for k, v in """
    """c.function.arguments.items() %}<{{ k }}>{% if v is string %}{{ v }}{% else %}{{ v | tojson }}{% endif %}"""
    """</{{ k }}>{% endfor %}</step>{% endfor %}</work>""",
    # a Python call
    "python": """«py»{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}"""
    """{{ k }}={{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %})"""
    """{% if not loop.last %}; {% endif %}{% endfor %}«/py»""",
    # lines of keys and values, each with its type
    "typed": """{% for c in m.tool_calls %}@call({{ c.function.name }})\n"""
    """{% for k, v in c.function.arguments.items() %}"""
    """@arg {{ k }} {% if v is string %}text{% else %}data{% endif %} :: """
    """{% if v is string %}{{ v }}{% else %}{{ v | tojson }}{% endif %} @@\n{% endfor %}@stop{% endfor %}""",
}


def invented(name: str) -> ChatTemplate:
    return ChatTemplate(OPENING + CALLS[name] + CLOSING)


def special_form(tokenizer: Tokenizer) -> ToolFormat:
    """Calls that begin with a control token of this tokenizer, one that ends no answer."""
    token = min(tokenizer.special_ids - tokenizer.eos_ids)
    marker = tokenizer.piece(token).decode()
    return ToolFormat("", "", f"{marker}{NAME}\n", Json(), "", "", "", "")
