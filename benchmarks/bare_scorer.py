"""The scorer in a script of its own, with torch and transformers alone, for ``benchmarks.spark_overhead``."""

import json
import sys
from pathlib import Path

import xampler

work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
xampler.score_demonstrations("mini", **work)
