"""Noisy answers of a release: from the files of a split to a file of their own. Nothing exact is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from privacy_pipeline.releases.queries import Value
from privacy_pipeline.releases.release import Noisy, Release


def value_of(features: Any, column: str) -> Value:
    """Return the one value of a column of a tf.Example; None where it has none, or several."""
    if column not in features:
        return None
    feature = features[column]
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    if len(values) != 1:
        return None
    value: Value = values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
    return value


def write_noisy(pipeline: Any, *, files: Sequence[str], rows: Any, release: Release, to: str) -> None:
    """Build the part of a Beam pipeline that reads the files and writes the noisy answers, and nothing else.

    Should a runner repeat the last step, then one result becomes the file, and nobody sees the others.

    Args:
        pipeline: the Beam pipeline.
        files: gzipped TFRecord files of raw tf.Examples.
        rows: a `beam.DoFn` that gives the pairs of (unit, row) of a file.
        release: what is counted.
        to: file that gets the answers as text.
    """
    import apache_beam as beam

    from privacy_pipeline.releases.beam_sums import ExactSums

    _ = (
        pipeline
        | "Files" >> beam.Create(list(files))
        | "Apart" >> beam.Reshuffle()
        | "Rows" >> beam.ParDo(rows)
        | "Count" >> ExactSums(release)
        | "Noise" >> beam.Map(release.noised)
        | "Text" >> beam.Map(to_text)
        | "Write" >> beam.io.WriteToText(to, shard_name_template="")
    )


def to_text(answers: Mapping[str, Noisy]) -> str:
    """Return noisy answers as text; exact ones have no such form."""
    return json.dumps({name: dict(answer.values) for name, answer in answers.items()})


def from_text(release: Release, text: str) -> dict[str, Noisy]:
    """Return the answers that `to_text` wrote.

    Args:
        release: what was asked.
        text: the text.
    """
    values = json.loads(text)
    asked = zip(release.queries, release.scales, release.thresholds, strict=True)
    return {
        query.name: Noisy(query=query, values=values[query.name], scale=scale, threshold=threshold)
        for query, scale, threshold in asked
    }
