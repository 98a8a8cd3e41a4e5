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

    by: Annotated[Text, Field(description="Who reviewed.")]
    date: Annotated[datetime.date, Field(description="Day of the review.")]
    verdict: Annotated[Text, Field(description="What the reviewer found.")]


class ReportFacts(ReportPart):
    """The `report:` block of a facts file. Enumerations are those of the OpenDP Deployments Registry."""

    product: Annotated[Text | None, Field(description="Name of the product that uses the data.")] = None
    description: Annotated[Text | None, Field(description="What the product does.")] = None
    curators: Annotated[tuple[Text, ...], Field(description="Who answers for the data.")] = ()
    intended_use: Annotated[Text | None, Field(description="What the product is for.")] = None
    product_type: Annotated[
        Literal[
            "Summary statistics",
            "Machine learning model",
            "Dataset",
            "Synthetic data",
            "Interactive API",
            "SQL queries",
        ]
        | None,
        Field(description="Kind of product."),
    ] = None
    sector: Annotated[
        Literal["Technology", "Healthcare", "Education", "Government", "Energy", "Finance"] | None,
        Field(description="Sector of the deployment."),
    ] = None
    region: Annotated[Text | None, Field(description="Region that the data describes, or whose law applies.")] = None
    publication_date: Annotated[datetime.date | None, Field(description="Of the results.")] = None
    data_domain: Annotated[Text | None, Field(description="What the data is about.")] = None
    unprotected_quantities: Annotated[Text | None, Field(description="What is given out without a guarantee.")] = None
    deployment_model: Annotated[
        Literal["Local", "Central", "Shuffle", "Federated"] | None, Field(description="Where the noise is added.")
    ] = None
    actors: Annotated[Text | None, Field(description="Who sees what, and what each is trusted for.")] = None
    encrypted_inference: Annotated[
        Text | None, Field(description="Threat model of encrypted inference: parties, and who may collude.")
    ] = None
    released: Annotated[Text | None, Field(description="What is given to others: model, checkpoints, metrics.")] = None
    release_type: Annotated[
        Literal["One release", "Many releases"] | None, Field(description="How often results are given out.")
    ] = None
    release_details: Annotated[Text | None, Field(description="What is given out, when and how often.")] = None
    data_source_type: Annotated[Literal["Static", "Dynamic"] | None, Field(description="Whether data comes in.")] = None
    data_source_details: Annotated[Text | None, Field(description="Where the data comes from.")] = None
    access_type: Annotated[
        Literal["Interactive", "Non-interactive"] | None, Field(description="Whether analysts put questions.")
    ] = None
    access_details: Annotated[Text | None, Field(description="How an analyst gets at results.")] = None
    preprocessing: Annotated[Text | None, Field(description="What was done to the data before the mechanism.")] = None
    tuning: Annotated[Text | None, Field(description="How hyperparameters were chosen.")] = None
    post_processing: Annotated[Text | None, Field(description="What is done to the results.")] = None
    side_channels: Annotated[Text | None, Field(description="Timing and other side channels, and their treatment.")] = (
        None
    )
    access_control: Annotated[Text | None, Field(description="Who can reach data and results.")] = None
    code: Annotated[Text | None, Field(description="Where the code can be read.")] = None
    justification: Annotated[Text | None, Field(description="Why these parameters.")] = None
    reviews: tuple[Review, ...] = ()
    limitations: Annotated[Text | None, Field(description="What the guarantee does not cover.")] = None
    sources: Annotated[Text | None, Field(description="Publications and documents.")] = None
    notes: Annotated[Text | None, Field(description="Anything else.")] = None
    registry_authors: Annotated[tuple[Text, ...], Field(description="Authors of the registry record.")] = ()
    registry_slug: Annotated[
        str | None, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="Name of the registry record.")
    ] = None


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
