"""Check the English of docs, docstrings, comments, help texts and messages against a list of patterns.

    python -m tools.words [PATH...]

Each pattern has a better word beside it. The script reads Markdown files without their code, comments and texts of
Python files, and comments of configs.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READ = (
    *(
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "Makefile",
        "docs",
        "benchmarks",
        "configs",
        "examples",
    ),
    *("privacy_pipeline", "federated", "tools"),
)
_PERSON = (
    r"who|person|people|user|users|reviewer|officer|auditor|owner|author|reader|readers|somebody|nobody|anybody|"
    r"everybody|someone|anyone|nobody else|you|we|he|she|attacker|adversary|analyst|analysts|engineer|researcher|"
    r"people|student|neighbour|paper|law|GDPR|NIST"
)
_PEOPLE_ONLY = "a verb for people: use prints, reports, names, states, gives; holds, records; needs"

PATTERNS: tuple[tuple[str, str], ...] = (
    (r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|other\b|way\b|\w+er than)", "is not a"),
    (r"\banew\b", "again, or: new"),
    (r"\bso many\b", "this many, that many, or the number itself"),
    (r"\bwhoever\b", "anyone who, a person who"),
    (r"\b(?:held|hold|holds|holding)\b(?: [\w`'.]+){0,6}? against\b", "check against, compare with"),
    (rf"\b(?!(?:{_PERSON})\b)[\w`)\]'.]+,? (?:tells|says|knows|wants)\b", _PEOPLE_ONLY),
    (r"\b(?:is|are|be|been|was|were) (?:told|said)\b(?! apart)", "is printed, is reported, is stated; gets a message"),
    (r"\b(?:that|which|they|both|files|records|names|rows|these|those|what) (?:tell|say|know)\b", _PEOPLE_ONLY),
    (
        r"\b(?:server|process|program|node|run|service|file|module|driver|machine|host|component|command|thread|child)s?"
        r",? who\b",
        "that, which: a machine is a thing",
    ),
    (
        r"\b(?:servers|processes|programs|nodes|runs|services|files|modules|drivers|machines|hosts|components|commands|"
        r"threads|configs|ledgers|reports|records|messages|tests|parties) (?:want|know|tell|say)\b",
        _PEOPLE_ONLY,
    ),
    (
        r"(?<!you )(?<!who )(?<!people )(?<!we )(?<!nobody )\bdo(?:es)? not (?:say|know|tell|want)\b",
        "does not state, has not, does not need",
    ),
    (r"\bbe it\b", "whether"),
    (r"\bshall\b", "must, or the present tense"),
    (r"\b(?:thereof|therein|wherein|whereof|hitherto|henceforth|heretofore)\b", "a plain word"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), better) for pattern, better in PATTERNS)
_CODE = re.compile(r"``.*?``|`[^`]*`|https?://\S+")


def main(arguments: list[str]) -> int:
    """Return exit code 1 if a text has a word for which there is a better one."""
    found = 0
    for path in _files([Path(name) for name in arguments] or [ROOT / name for name in READ]):
        for line, word, better in problems(path):
            sys.stdout.write(f"{path}:{line}: {word!r}; better: {better}\n")
            found += 1
    sys.stdout.write(f"{found} to mend\n" if found else "words: nothing to mend\n")
    return 1 if found else 0


def problems(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, words and better words for each place in a file."""
    read = {".md": _of_markdown, ".py": _of_python}.get(path.suffix, _of_comments)
    texts = read(path)
    for first, text in texts:
        plain = _CODE.sub(lambda code: "`" + "x" * (len(code[0]) - 2) + "`", text)
        for pattern, better in _COMPILED:
            for match in pattern.finditer(plain):
                yield first + plain.count("\n", 0, match.start()), " ".join(match[0].split()), better


def _files(given: list[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from sorted(
                file for file in path.rglob("*") if file.suffix in (".py", ".md", ".yaml", ".pbtxt", ".txt")
            )
        else:
            yield path


def _of_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the whole page with its code blocks blanked."""
    kept, code = [], False
    for line in path.read_text(encoding="utf-8").split("\n"):
        fence = line.lstrip().startswith(("```", "~~~"))
        code ^= fence
        kept.append("" if code or fence else line)
    yield 1, "\n".join(kept)


def _of_comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments of a config, and what a Makefile prints."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        _, mark, comment = line.partition("#")
        printed = re.search(r'@echo "(.*)"', line)
        if printed or mark:
            yield number, printed[1] if printed else comment


def _of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each block of comments, and every text of several words."""
    source = path.read_text(encoding="utf-8")
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield first, "\n".join(block)
                block = []
            first = first if block else token.start[0]
            block.append(token.string.lstrip("#: "))
            last = token.start[0]
    if block:
        yield first, "\n".join(block)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "`x`" for part in node.values)
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
