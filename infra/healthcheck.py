"""Whether a container that serves no HTTP reaches what it stands on. Exits 1 where it does not.

It says nothing of a worker that hangs: that one's lease runs out, and another takes the job.
"""

import sys

from sqlalchemy import text

from runtime import queue
from runtime.settings import load
from runtime.wiring import build

runtime = build(load())
with runtime.platform() as session:
    session.execute(text("SELECT 1"))
runtime.objects.check()
if not queue.answers(runtime.queue):
    sys.exit("the broker does not answer")
