"""Arrow columns as flat arrays and as numpy."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def flat_array(column: pa.ChunkedArray) -> pa.Array:
    """One array, of values where the column is of a dictionary."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # pyarrow gives chunks back where there are none
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array


def as_mask(values: pa.Array) -> NDArray[np.bool_]:
    """Marks as numpy, nulls as False."""
    return values.fill_null(False).to_numpy(zero_copy_only=False)


def as_numbers(values: pa.Array, dtype: type) -> np.ndarray:
    """As numpy, nulls as 0 (or NaN for floats)."""
    empty = float("nan") if dtype is np.float64 else 0
    wanted = pa.from_numpy_dtype(np.dtype(dtype))
    return values.cast(wanted, safe=False).fill_null(empty).to_numpy(zero_copy_only=False)
