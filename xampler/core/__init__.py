"""The method in plain Python and NumPy: no Spark, no model library, no files."""
