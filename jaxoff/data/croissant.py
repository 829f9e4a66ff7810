"""Croissant metadata of a dataset: JSON-LD by the formats Croissant 1.0 and Croissant-RAI 1.0.

Croissant (mlcommons.org/croissant) describes a dataset and its files for search engines and
programs, its RAI vocabulary how the data were collected and what they are fit for.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jaxoff.files import plain

if TYPE_CHECKING:
    from jaxoff.data.card import About

FORMATS = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0")
FILES = (
    "The folder is a flashbax Vault in OG-MARL's layout, with a second one, `final`, for the "
    "observation after the last step of each episode. `metadata.json` has the specification, the "
    "statistics and a hash of every array. All steps of all episodes follow each other on the "
    "second axis, M, of these arrays:"
)
_ADDRESSES = {"apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0"}
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe(told: About, metadata: bytes) -> dict[str, Any]:
    """The content of croissant.json; metadata: the bytes of metadata.json."""
    statistics = [
        {"statistic": name, "value": float(value)}
        for name, value in told.found.items()
        if isinstance(value, int | float)
    ]
    core = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(FORMATS),
        "name": told.title,
        "description": f"{told.summary} {told.origin}",
        "license": _ADDRESSES.get(told.license, told.license),
        "url": told.address,
        "version": "1.0.0",
        "datePublished": datetime.now(UTC).date().isoformat(),
        "keywords": ["reinforcement learning", "offline", "multi-agent", told.spec.name],
        "citeAs": told.address,
        "distribution": _distribution(metadata),
        "recordSet": [
            _records("arrays", "The arrays of the Vault.", told.arrays),
            _records("statistics", "Statistics of the episodes.", statistics),
        ],
    }
    return plain({name: value for name, value in (core | _responsible(told)).items() if value})


def _distribution(metadata: bytes) -> list[dict[str, Any]]:
    """The files of a dataset: its metadata, and the chunks of its two vaults."""
    return [
        {
            "@type": "cr:FileObject",
            "@id": "metadata.json",
            "name": "metadata.json",
            "description": "Specification, recipe, statistics, and a hash of every array.",
            "contentUrl": "metadata.json",
            "contentSize": f"{len(metadata)} B",
            "encodingFormat": "application/json",
            "sha256": hashlib.sha256(metadata).hexdigest(),
        },
        *(
            {
                "@type": "cr:FileSet",
                "@id": name,
                "name": name,
                "description": what,
                "encodingFormat": "application/octet-stream",
                "includes": pattern,
            }
            for name, what, pattern in (
                ("vault", "Every step of every episode, in TensorStore's OCDBT format.", "d/*"),
                ("final", "What is observed after the last step of each episode.", "final/d/*"),
            )
        ),
    ]


def _records(name: str, what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A record set whose rows stand in the metadata."""
    kind = lambda value: "sc:Float" if isinstance(value, float) else "sc:Text"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": what,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": f"{name}/{column}",
                "description": f"{column} of a row of {name}",
                "dataType": kind(value),
            }
            for column, value in rows[0].items()
        ],
        "data": [{f"{name}/{column}": value for column, value in row.items()} for row in rows],
    }


# ------------------------------------------------------------------------ what the data are fit for


def biases(told: About) -> str:
    """Whose behaviour the data show, in a sentence or two."""
    share = told.found["joint_saco"]
    return (
        "States and actions are those that the behaviour policies came to and chose, and not a "
        f"fair sample of what is possible: {share:.1%} of the steps have a pair of state and joint "
        "action that no other step has first."
    )


def limitations(told: About) -> str:
    """What can't be concluded from the data, in a sentence or two."""
    return (
        f"The data are of one environment, {told.spec.name}, and of the versions of it that the "
        "card names; what a method achieves on them says little about other tasks, and nothing "
        "about real systems."
    )


def personal(told: About) -> str:
    """Whether persons are in the data, in a sentence."""
    if told.has_recipe:
        return "All episodes are simulated; the data hold nothing about persons."
    return "jaxoff does not know whether the data hold anything about persons."


def _responsible(told: About) -> dict[str, Any]:
    """The properties of the RAI vocabulary."""
    again = f"`{told.command}` makes the dataset again." if told.command else ""
    return {
        "rai:dataCollection": told.origin,
        "rai:dataCollectionType": ["Software Collection", "Experiments"] if told.has_recipe else [],
        "rai:dataCollectionMissingData": (
            "Episodes are kept from their first to their last step; those that a time limit ended "
            "are marked as truncated."
        ),
        "rai:dataPreprocessingProtocol": [
            "Observations and actions of agents that have fewer numbers than others are padded "
            "with zeros; numbers are stored with 32 bits."
        ],
        "rai:dataBiases": [biases(told)],
        "rai:dataLimitations": [limitations(told)],
        "rai:dataUseCases": [
            "Training and comparing methods of offline multi-agent reinforcement learning."
        ],
        "rai:dataSocialImpact": (
            "The data are made for research on methods; a direct use outside of it is not known."
        ),
        "rai:personalSensitiveInformation": [personal(told)],
        "rai:dataReleaseMaintenancePlan": again
        or "The dataset is kept as it is; its metadata have a hash of every array.",
    }
