"""For those who serve: read a published version from a storage and recommend to some users. No Ray.

    python examples/recommend.py STORAGE MODEL [--endpoint-url URL] [--k 5]

STORAGE is a folder or s3://bucket/prefix that `tru train` or examples/own_data.py has filled.
"""

import argparse

from workflows.running.published import read_published
from workflows.storage import StorageConfig
from workflows.storage.existing import open_existing


def main() -> None:
    """Read the version that serves, and list the best items of its first users, without those that they had."""
    parser = argparse.ArgumentParser(description="Recommend from a published version.")
    parser.add_argument("storage")
    parser.add_argument("model")
    parser.add_argument("--endpoint-url", help="S3 endpoint, where it is not AWS")
    parser.add_argument("--k", type=int, default=5, help="items for each user")
    arguments = parser.parse_args()

    config = StorageConfig(url=arguments.storage, endpoint_url=arguments.endpoint_url)
    store = open_existing(config, where="STORAGE", is_written=False)
    published = read_published(store, arguments.model)
    users = list(published.user_ids)[:3]
    dim = published.users.shape[1]
    print(f"model {arguments.model}, version {published.version.version}, method {published.version.method}")
    print(f"snapshot {published.snapshot.snapshot_id}: {len(published.user_ids)} users, {dim} numbers a vector")
    for number, items in enumerate(published.recommend(users, k=arguments.k), start=1):
        print(f"user {number}: {' '.join(items)}")


if __name__ == "__main__":
    main()
