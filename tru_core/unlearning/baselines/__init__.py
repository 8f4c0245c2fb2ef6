"""Methods to compare with, one file each; shards, clusters and Newton steps beside them."""
