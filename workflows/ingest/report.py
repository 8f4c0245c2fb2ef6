"""What an import read, dropped, missed or found odd, in numbers."""

import logging

import numpy as np

from workflows.ingest.buckets import WrittenInteractions
from workflows.ingest.features import FeatureScan
from workflows.ingest.interactions import Scan

logger = logging.getLogger(__name__)


def import_report(
    scan: Scan,
    interactions: WrittenInteractions,
    features: dict[str, FeatureScan],
    *,
    num_rows: int,
    is_cold: np.ndarray,
    is_dropped: np.ndarray,
) -> dict[str, int]:
    """What was read, dropped, missing or odd, in numbers."""
    report = {
        "rows_read": scan.num_rows,
        "duplicates_dropped": interactions.counts.duplicates_dropped,
        "repeats_dropped": interactions.counts.repeats_dropped,
        "pairs_in_two_splits_dropped": interactions.counts.pairs_in_two_splits_dropped,
        "times_before_1990": scan.num_early_times,
        "rows_of_one_time": scan.num_rows if scan.has_one_time and scan.num_rows > 1 else 0,
        "cold_users": int(np.count_nonzero(is_cold & ~is_dropped)),
        "cold_users_dropped": int(np.count_nonzero(is_dropped)),
        "cold_user_rows_dropped": scan.num_rows - num_rows,
        "cold_items": int(np.count_nonzero(~interactions.is_train_item)),
    }
    report |= scan.dates
    for modality, found in features.items():
        report[f"items_without_feature.{modality}"] = found.num_missing
        report[f"feature_rows_without_item.{modality}"] = found.num_without_item
        report[f"zero_feature_rows.{modality}"] = found.num_zero_rows
        report[f"constant_feature_columns.{modality}"] = found.num_constant_columns
    return report


def warn_of_counts(dataset: str, report: dict[str, int]) -> None:
    """Log every count that somebody should look at."""
    for name, count in report.items():
        if count and name != "rows_read":
            logger.warning("data set %s: %s: %d", dataset, name, count)
