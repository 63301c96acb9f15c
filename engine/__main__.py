"""`python -m engine COMMAND`: one process, directories in, directories out.

The command's module is imported by name once it is known: `inspect` runs in a small, limited child that must not pay
for torch, and where torch need not be installed.
"""

import importlib
import os
import sys

from engine.parent import die_with_parent

COMMANDS = {
    "train": "engine.train",
    "warm": "engine.warm",
    "calibrate": "engine.calibrate",
    "evaluate": "engine.evaluate",
    "merge": "engine.merge",
    "inspect": "engine.inspection",
    "convert": "engine.convert",
}

# Everything comes from directories; nothing here may look for a model on the network.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def main(arguments: list[str]) -> int:
    """Run one command; its exit status says whether the process was healthy."""
    if not arguments or arguments[0] not in COMMANDS:
        sys.stderr.write(f"usage: python -m engine {'|'.join(COMMANDS)} ...\n")
        return 2
    # Before the imports, which take seconds in which the parent may end.
    die_with_parent()
    os.environ.update(OFFLINE)
    status: int = importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
