"""Facts that only the curator can give. What is not given is "not known" in the report; nothing is guessed."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from privacy_pipeline.config.messages import explain
from privacy_pipeline.config.source import read_document
from privacy_pipeline.reports.figures import ReportPart

Text = Annotated[str, Field(min_length=1)]


class Review(ReportPart):
    """One review of the guarantee, by a person."""

    by: Text
    date: datetime.date
    verdict: Text


class ReportFacts(ReportPart):
    """The `report:` block of a facts file. Enumerations are those of the OpenDP Deployments Registry."""

    product: Text | None = None
    description: Text | None = None
    curators: tuple[Text, ...] = ()
    intended_use: Text | None = None
    product_type: (
        Literal[
            "Summary statistics",
            "Machine learning model",
            "Dataset",
            "Synthetic data",
            "Interactive API",
            "SQL queries",
        ]
        | None
    ) = None
    sector: Literal["Technology", "Healthcare", "Education", "Government", "Energy", "Finance"] | None = None
    region: Annotated[Text | None, Field(description="Region that the data describes, or whose law applies.")] = None
    publication_date: datetime.date | None = None
    data_domain: Text | None = None
    unprotected_quantities: Text | None = None
    deployment_model: Literal["Local", "Central", "Shuffle", "Federated"] | None = None
    actors: Annotated[Text | None, Field(description="Who sees what, and what each is trusted for.")] = None
    encrypted_inference: Annotated[
        Text | None, Field(description="Threat model of encrypted inference: parties, and who may collude.")
    ] = None
    released: Annotated[Text | None, Field(description="What is given to others: model, checkpoints, metrics.")] = None
    release_type: Literal["One release", "Many releases"] | None = None
    release_details: Text | None = None
    data_source_type: Literal["Static", "Dynamic"] | None = None
    data_source_details: Text | None = None
    access_type: Literal["Interactive", "Non-interactive"] | None = None
    access_details: Text | None = None
    preprocessing: Text | None = None
    tuning: Text | None = None
    post_processing: Text | None = None
    side_channels: Text | None = None
    access_control: Text | None = None
    code: Annotated[Text | None, Field(description="Where the code can be read.")] = None
    justification: Text | None = None
    reviews: tuple[Review, ...] = ()
    limitations: Text | None = None
    sources: Text | None = None
    notes: Text | None = None
    registry_authors: tuple[Text, ...] = ()
    registry_slug: Annotated[str | None, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = None


class FactsFile(ReportPart):
    """A facts file."""

    report: ReportFacts


def load_facts(path: Path) -> ReportFacts:
    """Read a facts file.

    Args:
        path: YAML with one block `report:`.

    Raises:
        BadInputError: the file or a value is not usable; one line for each error, naming the line of the file.
    """
    document = read_document(path=path)
    try:
        return FactsFile.model_validate_json(json.dumps(document.data), strict=True).report
    except ValidationError as error:
        raise explain(error=error, document=document, root=FactsFile) from None
