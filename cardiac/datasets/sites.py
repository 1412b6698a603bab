"""Which cases belong to which site."""

from collections.abc import Iterable
from pathlib import Path

from cardiac.datasets.case import Case
from common.errors import UserError

VENDOR_COLUMNS = ("VENDOR", "VENDORNAME")
VENDOR_NAMES = {
    "siemens": "Siemens",
    "philips": "Philips",
    "philips medical systems": "Philips",
    "ge": "GE",
    "ge medical systems": "GE",
    "canon": "Canon",
}


def site_name(column: str, value: str) -> str:
    """Return the site's name for a value of the column that splits the data.

    Vendors get one spelling; bare numbers get the column's name (``centre-1``).
    """
    if not value:
        return f"{column.lower()}-unknown"
    if column.upper() in VENDOR_COLUMNS:
        return VENDOR_NAMES.get(value.lower(), value)
    return f"{column.lower()}-{value}" if value.isdigit() else value


def group_by_site(cases: Iterable[Case], column: str, data_dir: Path) -> dict[str, list[Case]]:
    """Divide cases into sites by a column, sorted by the sites' names.

    Raises
    ------
    UserError
        The data set has no such column.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if column not in case.info:
            known = ", ".join(sorted(case.info)) or "none"
            raise UserError(
                f"{data_dir}: no column {column!r} to split by (patient {case.patient}); "
                f"found {known}"
            )
        groups.setdefault(site_name(column, case.info[column]), []).append(case)
    return dict(sorted(groups.items()))
