"""Chat templates by name, and the tokens that they need.

They are written so that what stands before an answer stays as it is when the conversation goes on.
"""

from typing import NamedTuple


class NamedTemplate(NamedTuple):
    """A template."""

    text: str
    """In Jinja, as transformers reads it."""
    tokens: tuple[str, ...]
    """Its markup: each is one token."""
    end: str | None
    """What ends a turn; None for the tokenizer's end."""


_TOOLS = """\
{%- if tools %}
{{- tools_begin + 'You may call these functions:\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- 'Call one by <tool_call>{"name": …, "arguments": …}</tool_call>' + tools_end }}
{%- endif %}
"""

_CALLS = """\
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + ((call.function or call) | tojson) + '</tool_call>' }}
{%- endfor %}
"""

_CHATML = f"""\
{{%- set tools_begin = '<|im_start|>system\\n' %}}{{% set tools_end = '<|im_end|>\\n' %}}
{_TOOLS}{{%- for message in messages %}}
{{{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}}}
{_CALLS}{{{{- '<|im_end|>\\n' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}
"""

_HEADER = "'<|start_header_id|>' + {role} + '<|end_header_id|>\\n\\n'"

_LLAMA3 = f"""\
{{{{- bos_token }}}}
{{%- set tools_begin = {_HEADER.format(role="'system'")} %}}{{% set tools_end = '<|eot_id|>' %}}
{_TOOLS}{{%- for message in messages %}}
{{%- set role = 'ipython' if message.role == 'tool' else message.role %}}
{{{{- {_HEADER.format(role="role")} + (message.content or '') }}}}
{_CALLS}{{{{- '<|eot_id|>' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ {_HEADER.format(role="'assistant'")} }}}}{{% endif %}}
"""

_PLAIN = """\
{%- for message in messages %}
{%- if message.tool_calls or message.role not in ('system', 'user', 'assistant') %}
{{- raise_exception('it has no place for tools') }}
{%- elif message.role == 'system' and not loop.first %}
{{- raise_exception('a system message must be the first') }}
{%- endif %}
{%- endfor %}
"""

_GEMMA = f"""\
{_PLAIN}{{{{- bos_token }}}}
{{%- for message in messages if message.role != 'system' %}}
{{{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}}}
{{%- if loop.first and messages[0].role == 'system' %}}
{{{{- messages[0].content + '\\n\\n' }}}}
{{%- endif %}}
{{{{- message.content + '<end_of_turn>\\n' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<start_of_turn>model\\n' }}}}{{% endif %}}
"""

_MISTRAL = f"""\
{_PLAIN}{{{{- bos_token }}}}
{{%- for message in messages %}}
{{%- if message.role == 'system' %}}
{{{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}}}
{{%- elif message.role == 'user' %}}
{{{{- '[INST]' + message.content + '[/INST]' }}}}
{{%- else %}}
{{{{- message.content + eos_token }}}}
{{%- endif %}}
{{%- endfor %}}
"""

NAMED = {
    "chatml": NamedTemplate(_CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": NamedTemplate(
        _LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"
    ),
    "gemma": NamedTemplate(_GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "mistral": NamedTemplate(
        _MISTRAL, ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), None
    ),
}
"""By the value of task.objective.template."""
