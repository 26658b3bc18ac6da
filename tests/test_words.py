"""Terms of plain technical English in identifiers, comments, docstrings and guides."""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bpengine", "tests", "benchmarks", "fuzz", "examples")
SOURCES = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")]
GUIDES = [
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
EXEMPT = {Path(__file__).resolve()}

# a pattern of text, and what to write
TEXT = {
    r"rooms?": "module, section or space",
    r"houses?": "package or module",
    r"floors?": "lower bound",
    r"meets?": "fulfils, reaches or affects",
    r"picked": "selected",
    r"words?": "operand or 8 bytes",
    r"teams?": "thread pool or workers",
    r"tells?|told": "notify, pass, specify or distinguish",
    r"(takes?|taken|taking|took) up": "restore or continue",
    r"in one piece": "contiguous",
    r"one by one": "separately or in sequence",
    r"joining": "synchronizing",
    r"of (one's|your|their|his|the user's) own": "custom",
    r"at the door": "on entry",
    r"goes by": "depends on",
    r"what there is": "the contents",
}
# a part of an identifier between underscores
PARTS = {
    "room": "space or limit",
    "rooms": "modules or space",
    "house": "package",
    "team": "pool",
    "teams": "pools",
    "tell": "notify",
    "told": "calls or notified",
    "joining": "barrier",
    "kept": "retained or expected",
    "picked": "selected",
    "watching": "monitoring",
}
# a whole identifier
IDENTIFIERS = {
    "each": "the singular of what it iterates over",
    "own": "custom, local or per_network",
    "moved": "copied or updated",
    "take_up": "resume",
    "in_one_piece": "contiguous",
    "one_by_one": "separately",
    "say_once": "log_once",
}


def identifiers(tree):
    """Names, arguments, attributes, functions and classes with their lines."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str) and hasattr(node, "lineno"):
                yield node.lineno, name


def comments_and_docstrings(source, tree):
    """Lines of text with their numbers."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0].value
            yield from enumerate(text.value.splitlines(), text.lineno)


ANY = re.compile(rf"\b({'|'.join(TEXT)})\b", re.IGNORECASE)


def in_text(lines):
    """Terms of `TEXT` in numbered lines."""
    for number, line in lines:
        prose = re.sub(r"`[^`]*`", "", line)  # code
        if not ANY.search(prose):
            continue
        for pattern, plain in TEXT.items():
            for match in re.finditer(rf"\b({pattern})\b", prose, re.IGNORECASE):
                yield number, match[0], plain


def in_names(names):
    """Terms of `PARTS` and `IDENTIFIERS` in numbered names."""
    for number, name in names:
        for plain in in_name(name):
            yield number, name, plain


@functools.cache
def in_name(name):
    """What to write in place of a name, where it has such a term."""
    plain = [IDENTIFIERS[name.strip("_").lower()]] if name.strip("_").lower() in IDENTIFIERS else []
    parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return [*plain, *(PARTS[part] for part in parts & PARTS.keys())]


def found(path):
    """``file:line: term, plain alternative`` of a file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        terms = set(in_text(enumerate(source.splitlines(), 1)))
    else:
        tree = ast.parse(source)
        terms = {*in_text(comments_and_docstrings(source, tree)), *in_names(identifiers(tree))}
    where = path.relative_to(ROOT)
    return [f"{where}:{number}: {term!r}, rather {plain}" for number, term, plain in sorted(terms)]


def test_plain_terms():
    """No private vocabulary in the package, its tests and its guides."""
    paths = [path for path in (*SOURCES, *GUIDES) if path.resolve() not in EXEMPT]
    messages = [message for path in sorted(paths) for message in found(path)]
    assert not messages, "\n" + "\n".join(messages)


@pytest.mark.parametrize(
    ("source", "term"),
    [
        ("def f(own): ...", "own"),
        ("x.kept_steps = 1", "kept_steps"),
        ("class TeamPool: ...", "TeamPool"),
        ("# read one by one", "one by one"),
        ('def f():\n    """Told later."""', "Told"),
        ("each = 1", "each"),
        ("# for each example, of its own kind", None),
        ("def each_layer(): ...", None),
    ],
)
def test_what_is_found(source, term):
    """Terms are found in names, comments and docstrings, and natural uses are not."""
    tree = ast.parse(source)
    terms = [*in_text(comments_and_docstrings(source, tree)), *in_names(identifiers(tree))]
    assert [name for _, name, _ in terms] == ([] if term is None else [term])
