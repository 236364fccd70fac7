"""On a GPU, at the real models' shapes: ``python -m benchmarks.gpu``, explained in docs/benchmarks.md.

Needs torch, transformers, sentence-transformers and what those two and the package's own models import
(pydantic, peft); no Spark, MLflow, DeepSpeed, pandas or datasets. All weights are random.
"""
