"""Features that Hugging Face's ``datasets`` writes into Arrow schemas: what the values of columns mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "extension_of",
    "feature_at",
    "features_of",
    "names_of_classes",
    "text_of_feature",
]

KEY = b"huggingface"
"""The key of the features in the metadata of a schema."""

LISTS = ("LargeList", "List", "Sequence")


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the features of the columns of a table, as they are stored; empty if there are none."""
    text = (schema.metadata or {}).get(KEY)
    try:
        found = json.loads(text or b"{}")["info"]["features"]
    except (ValueError, KeyError, TypeError):
        # Written by another program, or by a release that stores them in another way.
        return {}
    return dict(found) if isinstance(found, Mapping) else {}


def feature_at(features: Mapping[str, Any], column: str) -> Any | None:
    """Return the feature of a column, or of a field of a struct by its path; ``None`` if it has none."""
    if column in features:
        return features[column]
    name, _, rest = column.partition(".")
    inner = features.get(name)
    is_struct = isinstance(inner, Mapping) and "_type" not in inner
    return feature_at(inner, rest) if rest and is_struct else None  # type: ignore[arg-type]


def names_of_classes(feature: Any) -> list[str] | None:
    """Return the names of the classes of a feature, or of the items of its lists, or ``None``."""
    while isinstance(feature, Mapping) and feature.get("_type") in LISTS:
        feature = feature.get("feature")
    if isinstance(feature, list) and len(feature) == 1:
        return names_of_classes(feature[0])
    if not isinstance(feature, Mapping) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    return None if names is None else [str(name) for name in names]


MOST_NAMES = 3


def text_of_feature(feature: Any) -> str | None:
    """Return a feature in words, such as ``"Image"``; ``None`` if it says no more than the type."""
    if isinstance(feature, list) and len(feature) == 1:
        inner = text_of_feature(feature[0])
        return None if inner is None else f"list of {inner}"
    if not isinstance(feature, Mapping):
        return None
    kind = feature.get("_type")
    if kind in LISTS:
        inner = text_of_feature(feature.get("feature"))
        return None if inner is None else f"list of {inner}"
    if kind in (None, "Value"):
        return None
    names = names_of_classes(feature)
    if names is None:
        return str(kind)
    more = f", … {len(names):,} in all" if len(names) > MOST_NAMES else ""
    return f"{kind}({', '.join(names[:MOST_NAMES])}{more})"


def extension_of(field: pa.Field) -> str | None:
    """Return the name of the Arrow extension type of a column, or ``None``.

    Where the class of a type is not registered, only the metadata of the column name it.
    """
    named = (field.metadata or {}).get(b"ARROW:extension:name")
    found = getattr(field.type, "extension_name", None)
    return named.decode() if found is None and named is not None else found
