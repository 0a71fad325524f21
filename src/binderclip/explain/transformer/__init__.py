"""Attribution that reads the attention of transformers."""
