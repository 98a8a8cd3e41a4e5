"""Changes of real documents, and garbage with a structure. Everything follows from the generator that is given."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import yaml

Path = tuple[Any, ...]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, 0.5, -0.0, 1e-300, 5e-324, 1e300, 2**31, 2**63, 2**64, 10**30, 10**400,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "nan", "1e5", "0x10", "2026-02-30", "2026-11-23",
    "é\u202e", "\U0001f600" * 50, "a" * 100_000, "ä" * 3_000, "../../../etc/passwd", "/dev/full", "/proc/self/mem",
    "a/" * 3_000, "[red]x[/]", "[/]", "<script>x</script>", "\x1b[31mred", "%s%n{0}{x}", "{SPAN}", "{SPAN}{SPAN}",
    "**/*", "[", "(((", "row", "latest", "infer", "plain", "dp_sgd", "federated", "encrypted", [], {}, [[]], [None],
    {"key": None}, {"key": "idcode"}, {"": 1}, {"a": {"b": {"c": {}}}}, [1, 1], ["a"] * 5, list(range(200)),
    {"name": "x"}, {f"key_{n}": n for n in range(300)}, "sqlite://", "sqlite:////dev/null", "foo://", "not a url",
    "postgresql://u:pw@127.0.0.1:1/db", "postgresql://u:pw@[::1", "mysql+nope://", "sqlite:///x?mode=ro&uri=true",
)  # fmt: skip
FACTORS = (0, -1, 1e-9, 0.1, 10, 1000, 1e9, 1e30)

# Scalars and collections that YAML 1.1 knows and that a reader may not expect, and what looks like them.
YAML_SCALARS = (
    b"!!bool abc", b"!!int ''", b"!!int x", b"!!float ''", b"!!float x", b"!!timestamp x", b"!!timestamp 2026-02-30",
    b"!!null x", b"!!binary aGk=", b"!!binary '*'", b"!!set {a, b}", b"!!omap [a: 1]", b"!!pairs [a: 1]", b"!!str 1",
    b"!!seq {}", b"!!map []", b"!!python/object/apply:os.getcwd []", b"!<tag:yaml.org,2002:float> x", b"!own 1",
    b"2026-11-23", b"2026-11-23T10:00:00Z", b"12:30:45", b"010", b"0o17", b"0b1", b"1_000", b".inf", b"-.inf", b".nan",
    b"~", b"yes", b"0x" + b"f" * 5_000, b"1" * 5_000, b"1e999999", b"1" + b"_" * 5_000, b'"\\ud800"', b'"\\0"',
    b'"\\u202e\\x07"', b'"\\N\\_\\L"', b"&a [*a]", b"&a {b: *a}", b"*nowhere", b"&a 1", b"|\n  text", b">-\n  text",
    b"? [a, b]", b"{? [a]: 1}", b"{[a]: 1}", b"{1: 2}", b"{null: 1}", b"{<<: 1}", b"{<<: [1, 2]}", b"{<<: {a: 1}}",
    b"[" * 2_000, b"[" * 400 + b"]" * 400, b"{a: " * 400 + b"1" + b"}" * 400, b"- " * 500, b"a" * 50_000,
    b"&x " + b"[a, " * 20 + b"]" * 20, b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\t", b"%", b"@", b"`", b"!", b"&",
)  # fmt: skip
_SEVERAL_OF = (b"---\n", b"...\n", b"%YAML 9.9\n---\n", b"%TAG ! tag:x,2026:\n---\n", b"<<: {a: 1}\n", b"? x\n")


def bomb(*, wide: int = 9, deep: int = 9, mapping: bool = False) -> bytes:
    """A document whose aliases stand for `wide` to the power of `deep` values."""
    lines = [b"a0: &a0 " + (b"{k: v}" if mapping else b"[x]")]
    for level in range(1, deep + 1):
        inner = [b"*a%d" % (level - 1)] * wide
        text = b", ".join(b"k%d: %s" % pair for pair in enumerate(inner)) if mapping else b", ".join(inner)
        lines.append(b"a%d: &a%d %s" % (level, level, b"{%s}" % text if mapping else b"[%s]" % text))
    return b"\n".join(lines) + b"\n"


def merges(*, deep: int = 25) -> bytes:
    """A document whose merge keys double at each level."""
    lines = [b"a0: &a0 {k: v}"]
    lines += [b"a%d: &a%d {<<: [*a%d, *a%d]}" % (n, n, n - 1, n - 1) for n in range(1, deep)]
    return b"\n".join(lines) + b"\n"


def paths(tree: Any, at: Path = ()) -> list[Path]:
    """Paths to everything below the root."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [at] if at else []
    for key, value in below:
        found += paths(value, (*at, key))
    return found


def value_at(tree: Any, path: Path) -> Any:
    """What is at a path."""
    for key in path:
        tree = tree[key]
    return tree


def mutated_tree(rng: Random, tree: Any, others: Sequence[Any] = (), values: Sequence[Any] = VALUES) -> Any:
    """A copy of JSON values with one to three changes.

    Args:
        rng: draws the changes.
        tree: the values; left as they are.
        others: further trees that parts may come from.
        values: that take the place of what is there.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        known = paths(tree)
        if known:
            path = rng.choice(known)
            rng.choice(_CHANGES)(rng, value_at(tree, path[:-1]), path[-1], [tree, *others], values)
    return tree


def _drop(rng: Random, parent: Any, key: Any, trees: Sequence[Any], values: Sequence[Any]) -> None:
    del parent[key]


def _replace(rng: Random, parent: Any, key: Any, trees: Sequence[Any], values: Sequence[Any]) -> None:
    parent[key] = copy.deepcopy(rng.choice(values))


def _graft(rng: Random, parent: Any, key: Any, trees: Sequence[Any], values: Sequence[Any]) -> None:
    tree = rng.choice(trees)
    known = paths(tree)
    if known:
        path = rng.choice(known)
        grown = copy.deepcopy(value_at(tree, path))
        parent[path[-1] if isinstance(parent, dict) and isinstance(path[-1], str) else key] = grown


def _extra(rng: Random, parent: Any, key: Any, trees: Sequence[Any], values: Sequence[Any]) -> None:
    if isinstance(parent, dict):
        parent[rng.choice((f"{key}x", "", "é", "a" * 5_000, " ", "\ufeff", "[key]", "<<"))] = parent[key]
    else:
        parent.extend([copy.deepcopy(parent[key])] * rng.choice((1, 50)))


def _scale(rng: Random, parent: Any, key: Any, trees: Sequence[Any], values: Sequence[Any]) -> None:
    value = parent[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e200:
        factor = rng.choice(FACTORS)
        parent[key] = int(value * factor) if isinstance(value, int) and rng.random() < 0.7 else value * factor
    else:
        _replace(rng, parent, key, trees, values)


_CHANGES: tuple[Callable[..., None], ...] = (_drop, _replace, _replace, _replace, _graft, _extra, _scale)


def as_yaml(rng: Random, tree: Any, *, garbage: float = 0.3) -> bytes:
    """A tree as the bytes of a YAML file, which may be broken in the ways of YAML.

    Args:
        rng: draws.
        tree: JSON values.
        garbage: chance of an attack on the text.
    """
    try:
        text = yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=rng.random() < 0.7, sort_keys=False, width=1_000)
    except UnicodeEncodeError:
        text = yaml.safe_dump(tree, sort_keys=False)
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() >= garbage:
        return raw
    return rng.choice((_odd_scalar, _odd_scalar, _odd_scalar, _odd_lines, _encoded, _tangled, mutated_bytes))(rng, raw)


def _odd_scalar(rng: Random, raw: bytes, *_: object) -> bytes:
    """A value replaced by one of YAML's own."""
    lines = raw.split(b"\n")
    chosen = [at for at, line in enumerate(lines) if b": " in line or line.lstrip().startswith(b"- ")]
    if not chosen:
        return rng.choice(YAML_SCALARS)
    at = rng.choice(chosen)
    start = re.match(rb"\s*(?:- |[^:]*: )", lines[at])
    lines[at] = (start[0] if start else b"") + rng.choice(YAML_SCALARS)
    return b"\n".join(lines)


def _odd_lines(rng: Random, raw: bytes, *_: object) -> bytes:
    """A line twice, moved, indented, or one that does not belong there."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    line = rng.choice((lines[at], b"  " + lines[at], b"\t" + lines[at], rng.choice(_SEVERAL_OF).rstrip(b"\n")))
    lines.insert(rng.randrange(len(lines)), line)
    return b"\n".join(lines)


def _encoded(rng: Random, raw: bytes, *_: object) -> bytes:
    """Another encoding, a byte-order mark, other ends of lines."""
    text = raw.decode("utf-8", "surrogateescape")
    coding = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "crlf", "cr", "nel"))
    if coding in ("crlf", "cr", "nel"):
        return raw.replace(b"\n", {"crlf": b"\r\n", "cr": b"\r", "nel": b"\xc2\x85"}[coding])
    return text.encode(coding, "replace")


def _tangled(rng: Random, raw: bytes, *_: object) -> bytes:
    """The document with aliases that stand for very many values."""
    wide, deep = rng.choice(((9, 9), (2, 30), (50, 5), (3, 4), (1, 900)))
    tangle = merges() if rng.random() < 0.25 else bomb(wide=wide, deep=deep, mapping=rng.random() < 0.5)
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = re.sub(rb": .*", b": *a%d" % min(deep, 20), lines[at])
    return tangle + b"\n".join(lines)


_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_NUMBERS = (
    b"0", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"1e-320", b"0x7f", b"1.5", b"9" * 20, b"9" * 5_000,
    b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", "１２".encode(),
)  # fmt: skip
_TOKENS = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b"{", b"[", b"\t", b"#", b"a" * 20_000)


def mutated_bytes(rng: Random, raw: bytes, tokens: Sequence[bytes] = _TOKENS) -> bytes:
    """Bytes with one to eight changes: drawn, cut, repeated, moved, numbers replaced, tokens put in."""
    content = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(content) + 1)
        rng.choice(_OF_BYTES)(rng, content, at, tokens)
    return bytes(content)


def _drawn(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    content[at : at + 1] = bytes([rng.randrange(256)])


def _cut(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    del content[at : at + rng.choice((1, 2, 10, 30, len(content)))]


def _token(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    content[at:at] = rng.choice(tokens)


def _repeated(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    start = rng.randrange(len(content) + 1)
    content[at:at] = content[start : start + rng.randrange(1, 60)]


def _moved_line(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    lines = bytes(content).split(b"\n")
    lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
    content[:] = b"\n".join(lines)


def _number(rng: Random, content: bytearray, at: int, tokens: Sequence[bytes]) -> None:
    numbers = list(_NUMBER.finditer(bytes(content)))
    if numbers:
        one = rng.choice(numbers)
        content[one.start() : one.end()] = rng.choice(_NUMBERS)


_OF_BYTES: tuple[Callable[..., None], ...] = (_drawn, _cut, _token, _token, _repeated, _moved_line, _number)

_JSON_GARBAGE = (
    b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b'"\\ud800"', b'"\\u0000"',
    b"\x00", b"\xff", b"", b"null", b"[]", b"{}", b'"' + b"a" * 100_000 + b'"', b"[" * 900 + b"]" * 900,
)  # fmt: skip


def as_json(rng: Random, text: str, *, garbage: float = 0.25) -> bytes:
    """JSON text as the bytes of a file, which may be broken."""
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() >= garbage:
        return raw
    way = rng.randrange(4)
    if way == 0:
        return rng.choice(_JSON_GARBAGE)
    if way == 1:
        return _encoded(rng, raw)
    if way == 2 and b": " in raw:  # a value replaced
        starts = [match.end() for match in re.finditer(rb": ", raw)]
        at = rng.choice(starts)
        end = next((raw.find(stop, at) for stop in (b",", b"\n", b"}") if raw.find(stop, at) > 0), len(raw))
        return raw[:at] + rng.choice(_JSON_GARBAGE) + raw[end:]
    return mutated_bytes(rng, raw)
