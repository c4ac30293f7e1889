"""What an evaluation kept of every query, in the `.npz` that a row names."""

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from retrieval.report.lines import Row
from retrieval.report.uncertainty import BROKEN, Missing, arrays


def kept(row: Row, names: Sequence[str]) -> dict[str, NDArray]:
    """The arrays of these names, `mAP` standing for the `AP` of each query.

    Raises Missing where the row names no file, or that is gone, broken or lacks one of them, as older ones do.
    """
    if not row.get("per_query"):
        raise Missing(f"{row['pooling']} kept nothing of its queries: judge {row['folder']} again")
    try:
        found = arrays(Path(row["folder"]) / row["per_query"], names)
    except BROKEN as error:
        raise Missing(f"what {row['pooling']} kept of its queries cannot be read: {error}") from error
    if absent := [name for name in names if name not in found]:
        raise Missing(f"{row['folder']} was judged by a version that kept no {absent[0]}: judge it again")
    return found
