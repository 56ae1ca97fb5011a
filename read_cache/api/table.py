"""A table of records that prints as text, shows as HTML in a notebook, and turns into a pandas frame."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


class RecordsTable(Sequence[Mapping[str, Any]]):
    """Records with the same columns, in order."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records = list(records)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order they appear."""
        return list(dict.fromkeys(name for record in self.records for name in record))

    @property
    def frame(self) -> "pandas.DataFrame":
        """The records as a pandas frame."""
        import pandas

        return pandas.DataFrame(self.records, columns=self.columns)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, float_format="{:.2f}".format) if self.records else "no records"

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, float_format="{:.2f}".format, border=0)
