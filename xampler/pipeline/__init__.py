"""Spark, thin: one file per stage, the session, the entry of jobs."""

STAGES = ("ingest", "propose", "score", "mine", "train", "retrieve", "predict", "evaluate", "promote")
