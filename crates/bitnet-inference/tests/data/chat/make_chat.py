"""Records how transformers runs chat templates.

Run beside this file:

    pip install transformers==5.24.0 jinja2==3.1.6
    python make_chat.py

The templates are small ones, written for this purpose: together they use what
published templates use.
"""

import datetime
import json
import pathlib
import unittest.mock

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)

CONVERSATIONS = {
    "one question": [("user", "Why is the sky blue?")],
    "with rules": [
        ("system", "  Answer briefly. "),
        ("user", "Hello!\n"),
        ("assistant", "<think>greet</think>\n\nHi."),
        ("user", 'A "quoted" question with {{ braces }}, <tags> & ünïcödé 🐉'),
    ],
    "empty": [],
}

TEMPLATES = {
    # The published template of microsoft/bitnet-b1.58-2B-4T.
    "bitnet": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = message['role'] | capitalize + ': '+ message['content'] | trim"
        " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
    ),
    "blocks are trimmed": (
        "{% for m in messages %}\n"
        "  {% if m.role == 'user' %}\n"
        "    U {{ m.content }}\n"
        "  {%- else -%}\n"
        "    O {{- m.content }}\n"
        "  {%+ endif %}\n"
        "{% endfor %}\n"
        "{# a comment #}\n"
        "end\n"
    ),
    "methods of Python": (
        "{% for m in messages %}{{ m.content.strip().split('</think>')[-1].lstrip('\\n') }}|"
        "{{ m['content'].rstrip().upper() }}|{{ m.content.startswith('Why') }}|"
        "{{ m.content.endswith('?') }}|{{ m.content.replace('e', '3').lower() }}|"
        "{{ m.get('name', 'nobody') }}|{{ m.items() | list | length }}|"
        "{{ 'a,b,c'.split(',') | join('-') }}|{{ m.content[:5] }}|{{ m.content[-3:] }};\n"
        "{% endfor %}"
    ),
    "namespaces and loops": (
        "{% set ns = namespace(last=-1, n=0) %}"
        "{% for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}"
        "{% if m.role == 'user' and ns.last < 0 %}{% set ns.last = index %}{% endif %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% if ns.n > 2 %}{% break %}{% endif %}"
        "{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} "
        "{{ loop.previtem.role if loop.previtem is defined }} "
        "{{ loop.nextitem.role if loop.nextitem is defined else 'none' }}\n"
        "{% endfor %}{{ ns.last }} {{ ns.n }}"
    ),
    "tests and filters": (
        "{{ messages is iterable }} {{ messages is string }} {{ tools is none }} "
        "{{ tools is defined }} {{ nothing is defined }} {{ nothing | default('d') }} "
        "{{ messages | map(attribute='role') | list | join(',') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ (messages | first).role if messages }} {{ 'x' ~ 1 ~ true ~ none }} "
        "{{ 'user' in 'the user' }} {{ 1.0 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ -7 % 3 }} "
        "{{ [1, 2] + [3] }} {{ {'a': 1} }} {{ 'a' * 3 }} {{ ' x ' | trim }} "
        "{{ 'abc' | upper | lower | capitalize }} {{ [3, 1, 2] | sort }} {{ 'é' | length }} "
        "{{ {'b': 1, 'a': 2} | dictsort }} {{ 5 | string + '5' }} {{ '5' | int + 5 }}"
    ),
    "JSON": (
        "{{ messages | tojson }}\n{{ messages | tojson(indent=2) }}\n"
        "{{ {'a': [], 'b': {}, 'c': none, 'd': [1, 2.5, true], 'e': '<&>\\'é'} | tojson }}"
    ),
    "macros": (
        "{% macro say(m, prefix='> ', suffix='') %}{{ prefix }}{{ m.content | trim }}{{ suffix }}\n"
        "{% endmacro %}{% for m in messages %}{{ say(m) }}{{ say(m, suffix='!') }}{% endfor %}"
        "{% set block %}  captured {{ messages | length }}{% endset %}{{ block }}"
        "{% filter upper %}filtered{% endfilter %}"
    ),
    "dates": "{{ strftime_now('%d %b %Y, %H:%M:%S %A %j %%') }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ unknown_token }}.",
    "refuses": (
        "{% if not messages or messages[0].role != 'user' %}"
        "{{ raise_exception('the first message must be the user\\'s') }}{% endif %}fine"
    ),
    "attribute of nothing": "{{ nothing.at.all }}",
}


def render(template, messages, answer):
    conversation = [{"role": role, "content": content} for role, content in messages]
    try:
        # Its clock stands still.
        with unittest.mock.patch.object(chat_template_utils, "datetime") as clock:
            clock.now.return_value = NOW
            texts, _ = chat_template_utils.render_jinja_template(
                [conversation],
                chat_template=template,
                add_generation_prompt=answer,
                bos_token="<|begin_of_text|>",
                eos_token="<|end_of_text|>",
            )
    except Exception as error:
        return {"error": str(error)}
    return {"text": texts[0]}


def main():
    cases = [
        {
            "template": name,
            "conversation": conversation,
            "answer": answer,
            **render(template, messages, answer),
        }
        for name, template in TEMPLATES.items()
        for conversation, messages in CONVERSATIONS.items()
        for answer in (True, False)
    ]
    document = {"templates": TEMPLATES, "conversations": CONVERSATIONS, "cases": cases}
    (HERE / "chat.json").write_text(json.dumps(document, indent=1) + "\n")


main()
