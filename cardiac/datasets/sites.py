"""Divide cases into sites by a column of the data set."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cardiac.datasets.case import Case
from cardiac.faults import Fault, not_text, raise_first

DEFAULT_COLUMN = "VENDOR"
"""Column whose values are the sites, by default."""
SITE = "site"
"""Column that takes its place where a data set names sites and no vendors."""
ALL = "all"
"""Name of the one site of a folder that does not name sites."""
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
    """Return the name of the site for a value of the column.

    Vendors get one spelling, and a number gets the column's name before it (``centre-1``).
    """
    if not value:
        return f"{column.lower()}-unknown"
    if column.upper() in VENDOR_COLUMNS:
        return VENDOR_NAMES.get(value.lower(), value)
    return f"{column.lower()}-{value}" if value.isdigit() else value


def site_column(cases: Iterable[Case], column: str | None) -> str:
    """Return the column whose values are the sites: the given one, or VENDOR by default.

    ``site`` replaces VENDOR where no case has a vendor and some have a site.
    """
    having = {known for case in cases for known in (DEFAULT_COLUMN, SITE) if known in case.info}
    if column in (None, DEFAULT_COLUMN) and having == {SITE}:
        return SITE
    return column or DEFAULT_COLUMN


def site_of(case: Case, column: str) -> str:
    """Return the name of a case's site; ``all`` where it has no such column."""
    return site_name(column, case.info[column]) if column in case.info else ALL


def site_faults(cases: Sequence[Case], column: str, data_dir: Path) -> Iterator[Fault]:
    """Yield faults of a column that names sites: missing, empty, contradictory or unknown."""
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
    for value, having in sorted(patients.items()):
        if doubt := not_text(value):
            text = f"{column} of {len(having)} patient(s) is {doubt}"
            yield Fault("row-cell", text, path=data_dir)
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
    """Return a folder's cases by site, sorted by the sites' names; see :func:`site_column`.

    Raises
    ------
    FaultError
        A case lacks the column, or a patient belongs to two sites.
    """
    column = site_column(cases, column)
    raise_first(site_faults(cases, column, data_dir))
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(site_of(case, column), []).append(case)
    return dict(sorted(groups.items()))
