"""A table of records that prints as text, shows as HTML in a notebook, and turns into a pandas frame."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


class RecordsTable(list[dict[str, Any]]):
    """Records with the same columns, in order."""

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order of their first record."""
        return list(dict.fromkeys(name for record in self for name in record))

    @property
    def frame(self) -> "pandas.DataFrame":
        """The records as a pandas frame."""
        import pandas

        return pandas.DataFrame(list(self), columns=self.columns)

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, float_format="{:.2f}".format) if self else "no records"

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, float_format="{:.2f}".format, border=0)
