"""The methods that say what the values of columns mean."""

from __future__ import annotations

from typing import Any

from lanceloader.features import feature_at, features_of, names_of_classes
from lanceloader.verbs.columns import ColumnVerbs

__all__ = ["FeatureVerbs"]


class FeatureVerbs(ColumnVerbs):
    """Methods that say what the values of columns mean."""

    @property
    def features(self) -> dict[str, Any]:
        """The features of the selected columns that Hugging Face's ``datasets`` wrote into the schema.

        They are plain values as they are stored, such as ``{"_type": "Image"}``, by the names of the columns.
        Columns without a feature are left out. Values are read as they are stored: an ``Image`` is a struct of
        bytes and a path, and a ``ClassLabel`` an integer.

        Example:
            >>> perm.features
            {}
        """
        stored = features_of(self.source.schema)
        found = {
            name: feature_at(stored, self.source.stored_name(column))
            for name, column in self.selection.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def class_names(self, column: str) -> list[str]:
        """Return the names of the classes of a column, by their numbers.

        Args:
            column: A column of class labels, or of lists of them, of which Hugging Face's
                ``datasets`` wrote the names into the schema.

        Raises:
            ColumnNotFoundError: If the column is not selected.
            ValueError: If the column has no names of classes.

        Example:
            >>> features = '{"info": {"features": {"y": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
            >>> import pyarrow as pa
            >>> data = pa.table({"y": [1, 0]}).replace_schema_metadata({"huggingface": features})
            >>> pets = ll.open(data)
            >>> names = pets.class_names("y")
            >>> [names[row["y"]] for row in pets[:]]
            ['dog', 'cat']
        """
        source = self.source.stored_name(self.resolve_column(column))
        names = names_of_classes(feature_at(features_of(self.source.schema), source))
        if names is None:
            message = (
                f"column `{column}` has no names of classes in the schema of {self.source.describe()}: "
                "`features` says which columns have, and unique() returns the values of a column"
            )
            raise ValueError(message)
        return names
