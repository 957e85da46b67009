"""Mutations of Rust source, of the kinds that cargo-mutants makes: a function's body replaced by
a default, a condition negated, an operator swapped.

The source is not parsed, so a mutant may not compile; whoever uses one takes the next then.
"""

import re

# Formatted source has spaces around binary operators, and none around those of types.
OPERATORS = {
    "==": "!=", "!=": "==", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "&&": "||", "||": "&&",
    "+": "-", "-": "+", "*": "+", "/": "*", "%": "/", "&": "|", "|": "&", "^": "|",
    "<<": ">>", ">>": "<<", "+=": "-=", "-=": "+=", "*=": "+=", "|=": "&=", "&=": "|=",
}

INTEGERS = {f"{sign}{bits}" for sign in "iu" for bits in ("8", "16", "32", "64", "128", "size")}

# Not code of the library's own that runs: what stands in macros is compiled elsewhere.
SKIPPED_ITEM = re.compile(
    r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub\s+)?(?:mod|fn|impl)\b[^{;]*"
    r"|#\[test\][^{;]*|\bmacro_rules!\s*\w+\s*"
)

LITERAL_OR_COMMENT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|[^'\\])'""", re.DOTALL
)


def masked(text):
    """The text with spaces in the place of comments, literals of text, attributes and what only
    tests need; as long as it was."""

    def blank(found):
        return re.sub(r"[^\n]", " ", found.group())

    text = LITERAL_OR_COMMENT.sub(blank, text)
    while found := SKIPPED_ITEM.search(text):
        opening = text[found.end() : found.end() + 1]
        end = closing(text, found.end()) if opening in ("{", "(", "[") else found.end()
        text = text[: found.start()] + re.sub(r"[^\n]", " ", text[found.start() : end]) + text[end:]
    return re.sub(r"#!?\[[^\]]*\]", blank, text)


def closing(text, at):
    """The place after the bracket that closes the one at a place."""
    depth = 0
    for place in range(at, len(text)):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
            if depth == 0:
                return place + 1
    return len(text)


def brace(text, at):
    """The next `{` outside of brackets; None if the statement ends before."""
    while at < len(text):
        if text[at] in "([":
            at = closing(text, at)
            continue
        if text[at] == "{":
            return at
        if text[at] in ";}":
            return None
        at += 1
    return None


def defaults(kind):
    """The values that a function of a return type is made to return."""
    kind = kind.strip()
    if kind == "":
        return [""]
    if kind == "bool":
        return ["true", "false"]
    if kind in INTEGERS:
        return ["0", "1"]
    if kind in ("f32", "f64"):
        return ["0.0"]
    if re.fullmatch(r"&('\w+ )?str", kind):
        return ['""', '"xyzzy"']
    if kind.startswith("Option<"):
        return ["None"]
    if kind.startswith("Vec<"):
        return ["Default::default()"]
    if kind.endswith("Result") or "Result<" in kind.split("(")[0]:
        return ["Ok(Default::default())"]
    return ["Default::default()"]


def bodies(text):
    """Functions whose body is replaced; not `unsafe` ones, of which no default is sound."""
    for found in re.finditer(r"((?:\b(?:unsafe|const|async|extern)\s+)*)\bfn\s+(\w+)", text):
        start = brace(text, found.end())
        if start is None or "unsafe" in found.group(1) or found.group(2) == "main":
            continue
        signature = text[found.end() : start].split(" where ")[0].split("\nwhere")[0]
        _, _, kind = signature.rpartition("->") if re.search(r"\)\s*->", signature) else ("", "", "")
        end = closing(text, start)
        if text[start + 1 : end - 1].strip():
            for value in defaults(kind):
                yield "body", start, end, f"{{ {value} }}"


def conditions(text):
    """Conditions that are negated."""
    for found in re.finditer(r"\b(?:if|while)\s+", text):
        end = brace(text, found.end())
        if end is not None and "let " not in text[found.end() : end]:
            yield "condition", found.end(), end, None


def operators(text):
    """Operators that are swapped for another one."""
    for found in re.finditer(r"(?<= )(?:[<>]{2}|[-=!<>+*/%&|^]=?|&&|\|\||==)(?= )", text):
        line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        new = OPERATORS.get(found.group())
        # Bounds of types are written as sums.
        is_bound = re.search(r"\b(where|impl|dyn|trait|type|fn|use)\b|: \??[A-Z'][\w:'<>]*$", line)
        if new and not is_bound:
            yield "operator", found.start(), found.end(), new


def mutants(text):
    """Each mutation of a source: its kind, its line, and the text that it makes."""
    shown = masked(text)
    for of_kind in (bodies, conditions, operators):
        for kind, start, end, new in of_kind(shown):
            if new is None:
                new = f"!({text[start:end].rstrip()}) "
            line = text.count("\n", 0, start) + 1
            yield kind, line, text[:start] + new + text[end:]
