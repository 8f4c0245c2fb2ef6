"""What is in a data set and what is no more: snapshots, deletion requests, tombstones."""
