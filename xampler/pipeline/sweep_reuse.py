"""What a sweep's children need not do again: parts that another experiment finished in the same state.

A part's fingerprint holds everything that its rows depend on, and no experiment's name. So equal
fingerprints mean equal rows, and a child takes them over by a copy.
"""

import logging
from collections.abc import Sequence

from pyspark.sql import functions as F

from xampler.core.pairing import PROPOSED
from xampler.pipeline.context import Context
from xampler.pipeline.markers import Finished, find_elsewhere
from xampler.pipeline.stage import Part, find_done, fingerprint
from xampler.tables.schema import Table

logger = logging.getLogger(__name__)

OWNER = "experiment"  # the column that says whose a row is; a table without it is shared by all


def adopt_finished(context: Context, parts: Sequence[Part]) -> None:
    """Take over the rows and the marker of each part that is finished elsewhere and not here."""
    missing = {fingerprint(context, part): part for part in parts if find_done(context, part) is None}
    if not missing:
        return
    for finished in find_elsewhere(context.store, context.name, list(missing)):
        _adopt(context, missing[finished.marker.fingerprint], finished)


def _adopt(context: Context, part: Part, finished: Finished) -> None:
    if not part.still_there(finished.marker.result):
        return
    context.markers.drop(part.key, finished.marker.run_id)
    for table in part.writes:
        # The pairs of an iterative recipe's rounds stay where they are: nothing reads them again.
        if OWNER in table.column_names and part.stage != "train":
            own = _slice_of(part, table)
            rows = context.store.read(table, **{OWNER: finished.experiment}, **own)
            context.store.replace(
                table, rows.withColumn(OWNER, F.lit(context.name)), **{OWNER: context.name}, **own
            )
    context.markers.put(part.key, finished.marker, finished.seconds)
    logger.info("%s: as in %s", part.key, finished.experiment)


def _slice_of(part: Part, table: Table) -> dict[str, str]:
    """What the part owns of an experiment's rows: a method's, or the pairs proposed before training."""
    if part.name and "method" in table.column_names:
        return {"method": part.name}
    return {"proposer": PROPOSED} if "proposer" in table.column_names else {}
