"""What an evaluation kept of every query, in the `.npz` that a row names."""

from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from retrieval import metrics
from retrieval.report.lines import Row
from retrieval.report.uncertainty import Missing


def kept(row: Row, names: Iterable[str]) -> dict[str, NDArray]:
    """The arrays of these names, `mAP` standing for the `AP` of each query.

    Raises Missing where the row names no file, or it is gone, broken or has not all of them, as older ones have not.
    """
    which = f"{row['pooling']} on {row['benchmark']} at {row['resolution']} px"
    if not row.get("per_query"):
        raise Missing(f"{which} kept nothing of its queries: judge {row['folder']} again")
    try:
        with np.load(Path(row["folder"]) / row["per_query"], allow_pickle=False) as arrays:
            held = {metrics.mean_name(name): name for name in arrays.files}
            if absent := [name for name in names if name not in held]:
                raise Missing(f"{which} kept no {absent[0]} of its queries: judge {row['folder']} again")
            return {name: arrays[held[name]] for name in names}
    except (OSError, ValueError, BadZipFile) as error:
        raise error if isinstance(error, Missing) else Missing(f"{which}: {error}") from error
