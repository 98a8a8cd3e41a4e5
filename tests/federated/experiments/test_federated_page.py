"""The comparison page says what has to be said beside an epsilon, and draws only what may stand on one axis."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest

from federated.experiments.compare import Curve, Row
from privacy_pipeline.pictures.drawing import to_svg
from privacy_pipeline.reports.render.federated_page import cells, drawings, federated_page, guarantee, notes

ROW = Row(
    name="clients 20 <b>",
    settings={"clients_per_round": 20},
    seeds=(1, 2),
    accuracy=0.8,
    accuracy_std=0.01,
    auc=0.9,
    auc_std=math.nan,
    client_accuracy=(0.1, 0.5, 0.75, 0.9, 1.0),
    epsilon=None,
    delta=None,
    unit=None,
    relation=None,
    runs_charged=0,
    synthetic=False,
    megabytes=1.25,
    seconds=3.0,
    curve=Curve(rounds=(5, 10), accuracy=(0.7, 0.8), epsilon=None, bytes_sent=(5e5, 1e6)),
)
PRIVATE = dataclasses.replace(
    ROW,
    epsilon=2.00001,
    delta=1e-5,
    unit="who",
    relation="zero_out",
    runs_charged=2,
    curve=dataclasses.replace(ROW.curve, epsilon=(1.0, 2.0)),
)


def names(rows: list[Row]) -> list[str]:
    return [drawing.name for drawing in drawings(rows)]


def test_epsilon_comes_with_delta_unit_and_relation_and_is_rounded_up() -> None:
    assert guarantee(ROW) == "none"
    assert guarantee(PRIVATE) == "2.001 at delta 1e-05, unit who, zero_out, each of 2 runs"
    assert cells(PRIVATE)[2:5] == ("0.8000 ± 0.0100", "0.9000", "0.10 / 0.75 / 1.00")


def test_an_auc_that_is_not_defined_is_no_number() -> None:
    row = dataclasses.replace(ROW, auc=math.nan)
    assert cells(row)[3] == "not defined" and "one class" in " ".join(notes([row]))
    assert "one class" not in " ".join(notes([ROW])) and ">nan" not in federated_page("t", [row])


def test_epsilons_of_different_units_are_not_drawn_together() -> None:
    other = dataclasses.replace(PRIVATE, unit="site")
    assert names([ROW]) == ["rounds", "bytes", "spread"]
    assert names([ROW, PRIVATE]) == ["rounds", "epsilon", "bytes", "spread"]
    assert names([PRIVATE, other]) == ["rounds", "bytes", "spread"]
    assert any("cannot be compared" in note for note in notes([PRIVATE, other]))
    assert not any("cannot be compared" in note for note in notes([ROW, PRIVATE]))


def test_synthetic_clients_are_said_to_be_so() -> None:
    assert not any("synthetic" in note for note in notes([ROW]))
    assert any("no real persons" in note for note in notes([dataclasses.replace(ROW, synthetic=True)]))


@pytest.mark.parametrize("rows", [[ROW], [ROW, PRIVATE], [PRIVATE] * 12])
def test_pictures_are_well_formed_and_within_their_frame(rows: list[Row]) -> None:
    for drawing in drawings(rows):
        root = ET.fromstring(to_svg(drawing))
        for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
            for pair in line.attrib["points"].split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= drawing.width
                assert 0 <= y <= drawing.height
    page = federated_page("a & b", rows)
    assert "<b>" not in page
    assert "a &amp; b" in page
