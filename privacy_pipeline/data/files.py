"""Which files a dataset's splits are made of: globs, spans and versions as TFX's ExampleGen reads them."""

from __future__ import annotations

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.covered_digests import covered
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain
from privacy_pipeline.files.file_rights import real
from privacy_pipeline.spans import Span, union_digest

ALL = "all"  # the one source that `hash_split` divides

_PLACEHOLDER = re.compile(r"\{(?P<name>[^{}:]*)(?::(?P<width>[^{}]*))?\}")
_GLOB_CHARACTERS = re.compile(r"\[[^]]+\]|[*?]")


@dataclass(frozen=True, kw_only=True)
class ResolvedSource:
    """The files behind one span and version of a dataset, or behind several spans together.

    Attributes:
        span: number of the span, those of several, or None where no pattern has {SPAN}.
        version: number of the version, or None where no pattern has {VERSION} or there are several spans.
        patterns: globs by split, relative to the dataset's folder, with span and version filled in; the split of a
            single source that `hash_split` divides is `ALL`.
        files: the files by split, sorted.
        parts: each span alone, where there are several; patterns and files are theirs, one after the other.
        digests: SHA-256 of the files' contents where they are known, as of a `private_copy`; else a digest reads them.
    """

    span: Span
    version: int | None
    patterns: Mapping[str, str]
    files: Mapping[str, tuple[Path, ...]]
    parts: Mapping[int, ResolvedSource] = field(default_factory=dict)
    digests: Mapping[Path, str] = field(default_factory=dict)

    def digest(self, secret: bytes) -> str:
        """Return the data's digest as it may leave (`covered_digests`): its name in runs, records and caches.

        Args:
            secret: of the ledger, or of the workspace where there is none.

        Raises:
            BadInputError: a file cannot be read.
        """
        return covered(self.plain_digest(), secret)

    def plain_digest(self) -> str:
        """Return SHA-256 over the content of all files by split, for the ledger alone; names and folders play no part.

        That of several spans is made of each one's own, by which it was registered.

        Raises:
            BadInputError: a file cannot be read.
        """
        if self.parts:
            return union_digest({span: part.plain_digest() for span, part in self.parts.items()})
        entries = sorted((split, self._of(file)) for split, files in self.files.items() for file in files)
        return hashlib.sha256("".join(f"{split}\0{digest}\n" for split, digest in entries).encode()).hexdigest()

    def _of(self, file: Path) -> str:
        return self.digests.get(file) or _content_digest(file)


def resolve(*, dataset: DatasetConfig) -> ResolvedSource:
    """Find the files of the span and version that the config asks for, or of its several spans.

    Args:
        dataset: the config's section.

    Raises:
        BadInputError: a folder, span, version or file is missing, empty or cannot be read, or a pattern is malformed.
    """
    if isinstance(dataset.span, tuple):
        return _together({span: resolve(dataset=dataset.model_copy(update={"span": span})) for span in dataset.span})
    if dataset.path.is_file():
        raise BadInputError(
            f"{dataset.path}: a file, but dataset.path is the folder of the data",
            fix=f"set dataset.path to {dataset.path.parent} and dataset.input to {dataset.path.name}",
        )
    if not dataset.path.is_dir():
        raise BadInputError(
            f"{dataset.path}: no such folder (dataset.path)", fix="check dataset.path, or write the demo's data first"
        )
    patterns = {ALL: dataset.input} if isinstance(dataset.input, str) else {str(k): v for k, v in dataset.input.items()}
    _check_patterns(patterns)
    span, patterns = _choose("span", patterns, dataset.span, dataset.path)
    version, patterns = _choose("version", patterns, dataset.version, dataset.path)
    files = {split: _files(dataset.path, split, pattern) for split, pattern in patterns.items()}
    return ResolvedSource(span=span, version=version, patterns=patterns, files=files)


def folders_of(dataset: DatasetConfig) -> tuple[Path, ...]:
    """Return the dataset's folder, and each folder that a file of any span lies in: below it, or where a link
    leads to.
    """
    patterns = [dataset.input] if isinstance(dataset.input, str) else dataset.input.values()
    named = {_PLACEHOLDER.sub("*", pattern) for pattern in patterns}
    files = [dataset.path / name for pattern in named for name in glob.glob(pattern, root_dir=dataset.path)]
    # A link, or a link to a folder, is as good a way to the file as its own name: both belong to it.
    within = {folder for file in files for folder in (file.parent, real(file).parent)}
    return (dataset.path, *sorted(within - {dataset.path}))


def _together(parts: Mapping[int, ResolvedSource]) -> ResolvedSource:
    splits = next(iter(parts.values())).files
    files = {split: tuple(file for part in parts.values() for file in part.files[split]) for split in splits}
    for split, found in files.items():
        twice = [file for file, times in Counter(found).items() if times > 1]
        if twice:
            raise BadInputError(
                f"{twice[0]}: belongs to more than one of the spans {', '.join(map(str, parts))} ({split})",
                fix="let the patterns in dataset.input match different files for each span",
            )
    patterns = {split: " and ".join(part.patterns[split] for part in parts.values()) for split in splits}
    return ResolvedSource(span=tuple(parts), version=None, patterns=patterns, files=files, parts=parts)


def _check_patterns(patterns: Mapping[str, str]) -> None:
    for split, pattern in patterns.items():
        names = [match["name"] for match in _PLACEHOLDER.finditer(pattern)]
        unknown = [name for name in names if name not in ("SPAN", "VERSION")]
        if unknown:
            raise BadInputError(
                f"dataset.input: '{pattern}' has an unknown placeholder {{{unknown[0]}}}",
                fix="use {SPAN} and {VERSION}",
            )
        if len(names) != len(set(names)):
            raise BadInputError(f"dataset.input: '{pattern}' has a placeholder twice")
        if "VERSION" in names and "SPAN" not in names:
            raise BadInputError(f"dataset.input: '{pattern}' has {{VERSION}} without {{SPAN}}")
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise BadInputError(f"dataset.input: '{pattern}' ({split}) must stay below dataset.path")
        for match in _PLACEHOLDER.finditer(pattern):
            if match["width"] is not None and not re.fullmatch(r"[1-9]\d*", match["width"]):
                raise BadInputError(f"dataset.input: the width in '{match[0]}' is not a positive integer")
    for name in ("SPAN", "VERSION"):
        if len({_placeholder(pattern, name) is None for pattern in patterns.values()}) > 1:
            raise BadInputError(f"dataset.input: either all patterns have {{{name}}} or none has")


def _placeholder(pattern: str, name: str) -> re.Match[str] | None:
    return next((match for match in _PLACEHOLDER.finditer(pattern) if match["name"] == name), None)


def _choose(
    what: Literal["span", "version"], patterns: Mapping[str, str], wanted: int | str, folder: Path
) -> tuple[int | None, dict[str, str]]:
    """Return the number asked for, or the latest, with the patterns that name it."""
    name = what.upper()
    if all(_placeholder(pattern, name) is None for pattern in patterns.values()):
        if wanted != "latest":
            raise BadInputError(f"dataset.{what} is {wanted}, but no `input` pattern has {{{name}}}")
        return None, dict(patterns)
    present = {split: _numbers(folder, pattern, name) for split, pattern in patterns.items()}
    numbers = sorted(set().union(*present.values()))
    if not numbers:
        shown = " and ".join(f"'{pattern}'" for pattern in dict.fromkeys(patterns.values()))
        raise BadInputError(f"{folder}: no {what} found for {shown}", fix="check dataset.path and dataset.input")
    number = numbers[-1] if wanted == "latest" else int(wanted)
    listed = ", ".join(map(str, numbers))
    if number not in numbers:
        raise BadInputError(f"{folder}: {what} {number} is absent; present: {listed}", fix=f"set dataset.{what}")
    for split, found in present.items():
        if number not in found:
            raise BadInputError(
                f"{folder}: split '{split}' has no files in {what} {number} (pattern '{patterns[split]}'); "
                f"it has: {', '.join(map(str, sorted(found))) or 'none'}",
                fix=f"add the files, or set dataset.{what} to one that all splits have",
            )
    return number, {split: _fill(pattern, name, present[split][number]) for split, pattern in patterns.items()}


def _numbers(folder: Path, pattern: str, name: str) -> dict[int, str]:
    """Return numbers at the placeholder among existing files, with their spelling (`01`)."""
    expression = re.compile(_as_regex(pattern, name))
    found: dict[int, str] = {}
    for file in glob.glob(_PLACEHOLDER.sub("*", pattern), root_dir=folder):
        match = expression.fullmatch(file)
        if match is None:
            continue  # `span-old` next to `span-1`: not a number, not ours
        token = match[name]
        other = found.setdefault(int(token), token)
        if other != token:
            raise BadInputError(
                f"{folder}: '{other}' and '{token}' are the same {name.lower()} (pattern '{pattern}')",
                fix="rename one of the two",
            )
    return found


def _as_regex(pattern: str, capture: str) -> str:
    """Return a glob with placeholders as a regular expression that captures one of them."""
    parts: list[str] = []
    position = 0
    tokens = re.compile(f"(?P<hole>{_PLACEHOLDER.pattern})|(?P<glob>{_GLOB_CHARACTERS.pattern})")
    for match in tokens.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        position = match.end()
        if match["hole"] is not None:
            digits = "[0-9]+" if match["width"] is None else f"[0-9]{{{match['width']}}}"
            parts.append(f"(?P<{capture}>{digits})" if match["name"] == capture else digits)
        else:
            token = match["glob"]
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(token, token.replace("[!", "[^", 1)))
    return "".join(parts) + re.escape(pattern[position:])


def _fill(pattern: str, name: str, token: str) -> str:
    match = _placeholder(pattern, name)
    return pattern if match is None else pattern[: match.start()] + token + pattern[match.end() :]


def _files(folder: Path, split: str, pattern: str) -> tuple[Path, ...]:
    files = tuple(folder / name for name in sorted(glob.glob(pattern, root_dir=folder)))
    if not files:
        label = "the data" if split == ALL else f"split '{split}'"
        raise BadInputError(f"{folder}: {label} has no files (pattern '{pattern}')", fix="check dataset.input")
    for file in files:
        _check_readable(file)
    return files


def _check_readable(file: Path) -> None:
    if file.is_dir():
        raise BadInputError(f"{file}: is a folder, not a file", fix="let the pattern in dataset.input match files only")
    try:
        with open_plain(file) as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    if empty:
        raise BadInputError(f"{file}: is empty (0 bytes)", fix="remove the file, or write it again")


def unreadable(*, file: Path, error: OSError) -> BadInputError:
    """Return the error for a file that the system does not let us read."""
    return BadInputError(f"{file}: cannot be read ({error.strerror})", fix="check the file's permissions")


def _content_digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_plain(file) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    return digest.hexdigest()
