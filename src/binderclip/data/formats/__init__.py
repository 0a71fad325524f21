"""Forms of data on disk: trees of files, tables, captions of COCO, addresses of shards."""
