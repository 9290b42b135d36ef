"""Tables of results as CSV that any reader takes, whatever the names in them."""

import csv
import io


def csv_text(columns, rows):
    """Rows of dicts as CSV with a header.

    All text is quoted, so that a line break or a comma in a name stays in its field; bytes of file
    names that are no UTF-8 are written as escapes, such as \\udcff.

    Returns:
        str: with "\\n" at line ends.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace").decode()
