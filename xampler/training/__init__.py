"""Retriever training: reads Parquet shards, writes a sentence-transformers model; knows no Spark."""
