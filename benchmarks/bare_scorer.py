"""The scorer in a script of its own, with torch and transformers alone, for ``benchmarks.spark_overhead``.

Writes the seconds that scoring takes once the model is loaded.
"""

import json
import sys
import time
from pathlib import Path

import xampler

work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
first = {name: work[name][:1] for name in ("queries", "demonstrations")}
xampler.score_demonstrations("mini", **(work | first))
started = time.perf_counter()
xampler.score_demonstrations("mini", **work)
sys.stdout.write(f"{time.perf_counter() - started}\n")
