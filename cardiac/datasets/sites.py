"""Which cases belong to which site."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cardiac.datasets.case import Case
from cardiac.faults import Fault, raise_first

DEFAULT_COLUMN = "VENDOR"
"""Column that tells sites apart unless told otherwise, in layouts that have it."""
SITE = "site"
"""Column that takes its place in the layouts that say the site."""
ALL = "all"
"""The one site of a folder that does not say whose its cases are."""
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


def site_column(cases: Iterable[Case], column: str | None) -> str:
    """Return the column that tells sites apart: the one asked for, or VENDOR, or site.

    ``site`` stands in for VENDOR only where no case has a vendor and one has a site.
    """
    having = {known for case in cases for known in (DEFAULT_COLUMN, SITE) if known in case.info}
    return (
        SITE if column in (None, DEFAULT_COLUMN) and having == {SITE} else column or DEFAULT_COLUMN
    )


def site_of(case: Case, column: str) -> str:
    """Return the name of a case's site; ``all`` where it has no such column."""
    return site_name(column, case.info[column]) if column in case.info else ALL


def site_faults(cases: Sequence[Case], column: str, data_dir: Path) -> Iterator[Fault]:
    """Yield what keeps a column from telling sites apart, or makes them other than meant."""
    patients: dict[str, set[str]] = {}
    sites: dict[str, set[str]] = {}
    without = {}
    for case in cases:
        if column not in case.info:
            without[case.patient] = ", ".join(sorted(case.info)) or "none"
            continue
        patients.setdefault(case.info[column], set()).add(case.patient)
        sites.setdefault(case.patient, set()).add(site_of(case, column))
    everyone = not patients
    for patient, known in sorted(without.items())[: 1 if everyone else None]:
        text = f"no column {column!r} to split by; found {known}; split-by can name another"
        yield Fault("column-missing", text, "" if everyone else patient, data_dir)
    for patient, names in sorted(sites.items()):
        if len(names) > 1:
            found = " and ".join(sorted(names))
            text = f"patient {patient}: {column} is {found}, expected one site for each patient"
            yield Fault("patient-sites", text, patient, data_dir)
    for patient in sorted(patients.pop("", set())):
        text = f"{column} is empty, so the patient goes to a site {site_name(column, '')!r}"
        yield Fault("column-empty", text, patient)
    for value, having in sorted(patients.items()):
        if column.upper() == DEFAULT_COLUMN and value.lower() not in VENDOR_NAMES:
            text = (
                f"{column} is {value!r} for {len(having)} patient(s), a spelling we do not know, "
                f"so it is a site of its own beside {', '.join(sorted(set(VENDOR_NAMES.values())))}"
            )
            yield Fault("vendor-unknown", text)


def group_by_site(
    cases: Sequence[Case], column: str | None, data_dir: Path
) -> dict[str, list[Case]]:
    """Divide cases into sites by a column, sorted by the sites' names.

    Parameters
    ----------
    cases
        Of a folder.
    column
        See :func:`site_column`.
    data_dir
        The folder, for messages.

    Raises
    ------
    FaultError
        A case has no such column, or a patient belongs to two sites.
    """
    column = site_column(cases, column)
    raise_first(site_faults(cases, column, data_dir))
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(site_of(case, column), []).append(case)
    return dict(sorted(groups.items()))
