"""The texts of a row, checked."""

from typing import Any

from read_cache.errors import UserError
from read_cache.tasks import Task


def field_texts(task: Task, row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values of the fields that the task's template names. `where` is the row's name in messages.

    Raises UserError for a missing field, a value that is no text or number, text that is not Unicode, and a row whose
    fields are all empty.
    """
    values = {}
    for field in task.text_fields:
        if field not in row:
            raise UserError(f"{where} has no field {field!r}, which task {task.name!r} needs; it has: {', '.join(row)}")
        value = values[field] = row[field]
        if not isinstance(value, (str, int, float)):
            raise UserError(f"{where}: {field!r} is {value!r}, expected text")
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: the text is not Unicode: {error}") from error
    if not any(str(value).strip() for value in values.values()):
        raise UserError(f"{where}: the text is empty ({', '.join(values)}): correct the data or leave the row out")
    return values
